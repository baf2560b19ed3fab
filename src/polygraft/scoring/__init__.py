"""Scores, their intervals, and what is said of them."""
