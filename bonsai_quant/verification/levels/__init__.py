"""What `verify` proves, a file per level."""
