"""`polygraft.score` and `polygraft.compare`: outputs of any toolkit. No torch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polygraft.errors import RecipeError

if TYPE_CHECKING:  # numpy and scipy take a while
    from polygraft.comparing.results import ComparedSystems, OutputScores

StrPath = str | os.PathLike[str]


def score(
    files: StrPath | Sequence[StrPath],
    *,
    references: StrPath | None = None,
    columns: Mapping[str, Any] | None = None,
    lower_is_better: Sequence[str] = (),
    tokenize: str | None = None,
    confidence: float = 0.95,
) -> OutputScores:
    """Score outputs of any toolkit, a file per seed: chrF++, BLEU, ROUGE in any script, language, copies, repeats.

    Args:
        references: a file that has them, where the outputs' files have none.
        columns: where what is: `prediction`, `reference`, `id`, `source`, `lang`; `language` of all rows; `scores`,
            columns of a number per document.
        lower_is_better: those of `scores` that should be low.
        tokenize: sacreBLEU's tokenizer for BLEU, in place of that of the language.

    Raises:
        RecipeError: columns or settings that are none.
        DataError: files that cannot be used, or do not have the same documents.
    """
    from polygraft import comparing

    scoring = _scoring(columns, references, lower_is_better=lower_is_better, tokenize=tokenize, confidence=confidence)
    return comparing.score(_names(files), scoring)


def compare(
    files: StrPath | Sequence[StrPath],
    against: StrPath | Sequence[StrPath],
    *,
    metric: str = "chrf++",
    margin: float | None = None,
    html: StrPath | None = None,
    references: StrPath | None = None,
    columns: Mapping[str, Any] | None = None,
    lower_is_better: Sequence[str] = (),
    tokenize: str | None = None,
    confidence: float = 0.95,
) -> ComparedSystems:
    """Compare outputs of any toolkit with those of another system, a file per seed each: effect, interval, word.

    Args:
        metric: the score that decides; all others are secondary.
        margin: a difference in it that does not matter; without one nothing is "equivalent".
        html: a page to write.
        references, columns, lower_is_better, tokenize: as those of `score`.

    Raises:
        RecipeError: no such score, columns or settings that are none.
        DataError: files that cannot be used, or do not have the same documents.
    """
    from polygraft import comparing

    scoring = _scoring(columns, references, lower_is_better=lower_is_better, tokenize=tokenize, confidence=confidence)
    found = comparing.compare(_names(files), _names(against), scoring, metric=metric, margin=margin)
    if html is not None:
        from polygraft.comparing import page

        page.write(found, Path(html))
    return found


def _names(files: StrPath | Sequence[StrPath]) -> list[str]:
    return [os.fspath(files)] if isinstance(files, str | os.PathLike) else [os.fspath(file) for file in files]


def _scoring(columns: Mapping[str, Any] | None, references: StrPath | None, **settings: Any) -> Any:
    from polygraft.comparing import Columns, ScoringOptions

    known = set(Columns.__dataclass_fields__)
    if odd := sorted(set(columns or {}) - known):
        raise RecipeError(f"columns: '{odd[0]}' is none of them. There are {', '.join(sorted(known))}.")
    beside = None if references is None else os.fspath(references)
    return ScoringOptions(columns=Columns(**(columns or {})), references=beside, **settings)
