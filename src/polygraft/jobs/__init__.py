"""Arms and seeds side by side, in processes; `together.py` has the entrance. Nothing here changes a result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LauncherName = Literal["local", "ray"]


@dataclass(frozen=True)
class SideBySide:
    """How many jobs run side by side (None: what there is room for), in processes of this machine or of Ray's."""

    jobs: int | None = 1
    launcher: LauncherName = "local"
