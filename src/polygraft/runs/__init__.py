"""What runs when, and what is kept of it."""
