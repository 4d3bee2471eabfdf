"""Which endpoints exist: the facts an operator states about each GPU server, and where they come from."""
