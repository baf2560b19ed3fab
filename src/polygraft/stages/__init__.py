"""The stages: one function each, called by the command line and from Python alike."""
