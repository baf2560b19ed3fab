"""Transfer by what the layers make of a text."""
