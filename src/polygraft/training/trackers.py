"""Which trackers `report_to` means, and whether they are installed: found out without torch."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import get_args

from polygraft.errors import RecipeError
from polygraft.settings import Tracker

ALL = tuple(name for name in get_args(Tracker) if name != "all")
"""Trackers; each is the name of its package, too."""


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def chosen(report_to: Sequence[str]) -> list[str]:
    """Return the trackers that are meant: of "all", those that are installed."""
    return [name for name in ALL if name in report_to or ("all" in report_to and _installed(name))]


def assert_installed(report_to: Sequence[str]) -> None:
    """Raise RecipeError for trackers that are not installed."""
    missing = [name for name in chosen(report_to) if not _installed(name)]
    if missing:
        them = " and ".join(missing)
        raise RecipeError(
            f"report_to: {them} cannot be imported. Run `pip install {' '.join(missing)}`, or leave it out."
        )
    if report_to and not chosen(report_to):
        raise RecipeError(f"report_to = all: none of {', '.join(ALL)} is installed. Run `pip install {ALL[0]}`.")
