"""``python -m polygraft`` is ``polygraft``."""

from polygraft.cli import main

main()
