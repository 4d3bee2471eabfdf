"""What the endpoints say about themselves: fetched at the edges, kept as columns, read as immutable views."""
