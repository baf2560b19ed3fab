"""Checkpoints and vocabularies."""
