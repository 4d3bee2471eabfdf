"""One strategy per file: its weight function, built from its parameters."""
