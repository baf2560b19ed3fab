"""`polygraft.score` and `polygraft.compare`: outputs of any toolkit. No torch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polygraft.recipe.given import settings_of
from polygraft.settings import OutputScoring

if TYPE_CHECKING:  # numpy and scipy take a while
    from polygraft.comparing.results import ComparedSystems, OutputScores

StrPath = str | os.PathLike[str]


def score(
    files: StrPath | Sequence[StrPath], *, settings: OutputScoring | Mapping[str, Any] | None = None
) -> OutputScores:
    """Score outputs of any toolkit, a file per seed: chrF++, BLEU, ROUGE in any script, language, copies, repeats.

    Raises:
        RecipeError: settings that are none.
        DataError: files that cannot be used, or do not have the same documents.
    """
    from polygraft import comparing

    return comparing.score(_names(files), settings_of("score", "settings", OutputScoring, settings))


def compare(
    files: StrPath | Sequence[StrPath],
    against: StrPath | Sequence[StrPath],
    *,
    metric: str = "chrf++",
    margin: float | None = None,
    html: StrPath | None = None,
    settings: OutputScoring | Mapping[str, Any] | None = None,
) -> ComparedSystems:
    """Compare outputs of any toolkit with those of another system, a file per seed each: effect, interval, word.

    Args:
        metric: the score that decides; all others are secondary.
        margin: a difference in it that does not matter; without one nothing is "equivalent".
        html: a page to write.

    Raises:
        RecipeError: no such score, or settings that are none.
        DataError: files that cannot be used, or do not have the same documents.
    """
    from polygraft import comparing

    scoring = settings_of("compare", "settings", OutputScoring, settings)
    found = comparing.compare(_names(files), _names(against), scoring, metric=metric, margin=margin)
    if html is not None:
        from polygraft.comparing import page

        page.write(found, Path(html))
    return found


def _names(files: StrPath | Sequence[StrPath]) -> list[str]:
    return [os.fspath(files)] if isinstance(files, str | os.PathLike) else [os.fspath(file) for file in files]
