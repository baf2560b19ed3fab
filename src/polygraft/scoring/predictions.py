"""The lines of predictions.jsonl: each test document, what a system made of it, and the loss of its reference."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

from polygraft.errors import DataError

FILE = "predictions.jsonl"
SHARED_FIELDS = ("id", "lang", "source", "reference", "reference_tokens", "lead")


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A test document.

    Attributes:
        lang: the language that was written, as the tokenizer's code.
        source_lang: the one that was read; None in files of before that was kept.
        prediction: what the model wrote.
        lead: the first words of the source, the baseline.
        loss_nats: -ln p of the reference, summed over its tokens and </s>; `reference_tokens` of them.
    """

    id: str
    lang: str
    source: str
    reference: str
    prediction: str
    lead: str
    loss_nats: float
    reference_tokens: int
    source_lang: str | None = None

    @property
    def direction(self) -> str:
        """What has scores of its own: the language, or of a translation both languages, as in de_DE-fr_XX."""
        return self.lang if self.source_lang in (None, self.lang) else f"{self.source_lang}-{self.lang}"

    def of(self, system: str) -> Prediction:
        """The document as a system is scored on it: "model", "lead", whose output is the lead, or "reference"."""
        outputs = {"model": self.prediction, "lead": self.lead, "reference": self.reference}
        return replace(self, prediction=outputs[system])


def read(path: Path) -> list[Prediction]:
    """Read a predictions.jsonl.

    Raises:
        DataError: it is missing, broken or empty.
    """
    remedy = "Delete this evaluate folder and run the recipe again."
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # not splitlines: texts may hold U+2028
    except FileNotFoundError:
        raise DataError(
            f"{path}: missing, so the arms cannot be compared. Run the recipe again to evaluate it."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}). {remedy}") from None
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            rows.append(_prediction(json.loads(line)))
        except (ValueError, TypeError) as error:
            raise DataError(f"{path}, line {number}: not a prediction ({error}). {remedy}") from None
    if not rows:
        raise DataError(f"{path}: holds no predictions. {remedy}")
    return rows


def _prediction(row: dict) -> Prediction:
    wanted = (*SHARED_FIELDS, "prediction", "loss_nats")
    if missing := [field for field in wanted if field not in row]:
        raise ValueError(f"lacks {', '.join(missing)}")
    if not math.isfinite(row["loss_nats"]) or not 1 <= row["reference_tokens"] < math.inf:
        raise ValueError("loss or token count is not a number")
    return Prediction(**{field: row[field] for field in wanted}, source_lang=row.get("source_lang"))


def check_same_documents(path: Path, rows: list[Prediction], first_path: Path, first_rows: list[Prediction]) -> None:
    """Paired statistics are meaningless otherwise; the same reference must also have the same number of tokens.

    Raises:
        DataError: the documents of two files differ.
    """
    remedy = "Arms are compared on the same test file, samples and tokenizer: evaluate all of them with one recipe."
    if len(rows) != len(first_rows):
        raise DataError(f"{path}: {len(rows)} documents, but {first_path} has {len(first_rows)}. {remedy}")
    for number, (row, first) in enumerate(zip(rows, first_rows, strict=True), 1):
        for field in (*SHARED_FIELDS, "source_lang"):
            mine, other = getattr(row, field), getattr(first, field)
            if mine != other and not (field == "source_lang" and None in (mine, other)):
                raise DataError(
                    f"{path}, document {number} (id {row.id}): its {field} is {str(mine)[:60]!r}, "
                    f"but {str(other)[:60]!r} in {first_path}. {remedy}"
                )
