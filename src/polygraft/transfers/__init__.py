"""What the source knows, moved into the target."""
