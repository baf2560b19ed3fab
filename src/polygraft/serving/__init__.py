"""`polygraft serve`: a page and an HTTP API for fine-tuned models, on one port, with limits to everything.

No path, file name or address in a request is ever opened: models are chosen among those that were opened at the start,
files are what a request's body holds, and all that the page is made of was read when the server began.
"""
