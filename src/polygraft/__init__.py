"""polygraft: adapt a masked language model, transfer it into mBART, fine-tune, and see whether the transfer helped."""

import sys

__version__ = "0.1.0"

if sys.platform == "win32":  # said before an import fails: the standard library has no `resource` there
    raise SystemExit(
        "polygraft runs on Linux and macOS. On Windows use the Windows Subsystem for Linux: run `wsl --install`, "
        "and install polygraft inside it."
    )
