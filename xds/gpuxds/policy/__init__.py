"""What the operator asked for: the policy file's model, its loader, and the table of known GPU models."""
