"""What can be known before a second of training is spent."""
