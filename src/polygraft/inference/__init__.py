"""Using a fine-tuned model: decoding, shared by `evaluate` and `polygraft generate`."""
