"""From signals to weights and health, in plain functions: no I/O, no clock, the same inputs give the same bytes."""
