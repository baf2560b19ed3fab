"""What is bundled: the nano models and the sample text, addressed by names that begin with ``polygraft/``."""

from __future__ import annotations

from pathlib import Path

from polygraft.errors import DataError

FOLDER = Path(__file__).parent
PREFIX = "polygraft/"


def bundled(name: str) -> Path | None:
    """Return the path behind a bundled name, None for any other name.

    ``polygraft/nano-xlmr`` and ``polygraft/nano-mbart`` are checkpoints, ``polygraft/sample/uk/train.parquet`` a file.

    Raises:
        DataError: the name begins with ``polygraft/`` but nothing of that name is bundled.
    """
    if not name.startswith(PREFIX):
        return None
    path = FOLDER / name.removeprefix(PREFIX)
    if not path.exists():
        known = sorted(f"{PREFIX}{p.relative_to(FOLDER).as_posix()}" for p in FOLDER.glob("sample/*/*.parquet"))
        known = [f"{PREFIX}{p.parent.name}" for p in sorted(FOLDER.glob("*/config.json"))] + known
        raise DataError(f"'{name}' is not bundled with polygraft. Bundled: {', '.join(known)}.")
    return path
