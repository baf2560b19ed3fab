"""Arms and seeds side by side, in processes; `together.py` has the entrance. Nothing here changes a result."""
