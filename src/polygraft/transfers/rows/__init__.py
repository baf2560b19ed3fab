"""Transfer by rows of the embedding matrices."""
