"""Write files so that a reader sees the old content or the new one, never a half."""

from __future__ import annotations

import os
from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    """Write `text` as UTF-8 under a temporary name, then rename; a failure leaves nothing behind and is raised."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # What no encoding can hold (a lone surrogate from a JSON escape) must not cost the file.
        with temporary.open("w", encoding="utf-8", errors="replace", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave the new name with no content
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
