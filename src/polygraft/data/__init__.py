"""Reading, splitting, tokenizing and batching the user's text."""
