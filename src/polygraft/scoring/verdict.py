"""Stage 5: which arm is better, in plain words, from the predictions of all arms and seeds. No torch.

One primary comparison (treatment against control on loss) decides the word. Every other pair of arms on loss, and the
same pair on chrF++ and ROUGE-L, is secondary: their intervals are widened together as Holm's procedure has it. So are
those of both arms against the lead baseline. The statistics are in `comparison.py`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

from polygraft.data.files import write_atomically
from polygraft.errors import DataError
from polygraft.scoring.comparison import (
    CHRF,
    LOSS,
    ROUGE_L,
    ArmScores,
    Comparison,
    DocumentScores,
    Metric,
    compare,
    compare_arms,
    holm_levels,
)
from polygraft.scoring.words import sentence
from polygraft.settings import Verdict

__all__ = ["DocumentScores", "compare", "run"]

SHARED_FIELDS = ("id", "lang", "source", "reference", "reference_tokens", "lead")
Row = dict[str, Any]


class Scores:
    """Scores of all arms, computed once per arm and metric."""

    def __init__(self, rows: dict[str, list[list[Row]]]) -> None:
        """`rows` maps each arm to its seeds' documents."""
        self.rows = rows
        self.known: dict[tuple[str, str], ArmScores] = {}

    def of(self, arm: str, metric: Metric) -> ArmScores:
        """The arm's score per seed and document."""
        key = (arm, metric.name)
        if key not in self.known:
            seeds = [STATISTICS[metric.name](rows, "prediction") for rows in self.rows[arm]]
            self.known[key] = ArmScores.of(seeds, metric)
        return self.known[key]

    def of_lead(self, metric: Metric) -> ArmScores:
        """The lead baseline's score; it is the same in all arms and seeds."""
        some_rows = next(iter(self.rows.values()))[0]
        return ArmScores.of([STATISTICS[metric.name](some_rows, "lead")], metric)


def _loss_statistics(rows: list[Row], column: str) -> DocumentScores:
    return DocumentScores.of_loss([row["loss_nats"] for row in rows], [row["reference_tokens"] for row in rows])


def _chrf_statistics(rows: list[Row], column: str) -> DocumentScores:
    return DocumentScores.of_chrf([row[column] for row in rows], [row["reference"] for row in rows])


def _rouge_statistics(rows: list[Row], column: str) -> DocumentScores:
    return DocumentScores.of_rouge_l([row[column] for row in rows], [row["reference"] for row in rows])


STATISTICS: dict[str, Callable[[list[Row], str], DocumentScores]] = {
    LOSS.name: _loss_statistics,
    CHRF.name: _chrf_statistics,
    ROUGE_L.name: _rouge_statistics,
}


def run(
    run_dir: Path,
    settings: Verdict,
    arms: Sequence[str],
    seeds: Sequence[int],
    cost: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    """Compare the arms in `run_dir` (outputs/<name>), write verdict.json there and return it.

    Args:
        cost: what each arm spent before fine-tuning, mean over seeds: its "seconds", "flops" and "tokens".

    Raises:
        DataError: predictions are missing or broken, or the arms were not scored on the same documents.
    """
    scores = Scores(read_arms(run_dir, arms, seeds))
    pair = settings.treatment, settings.control
    primary = _compared(scores, settings, *pair, LOSS)
    lead = dict(zip(pair, together([_against_lead(scores, settings, arm) for arm in pair]), strict=True))
    result = {
        "word": primary.word,
        "sentence": sentence(primary, *pair, lead, cost),
        **_as_dict(primary, *pair),
        "seeds": list(seeds),
        "lead": {
            "metric": CHRF.name,
            "score": lead[settings.treatment].control_score,
            "beaten_by": [arm for arm, against in lead.items() if against.word == "helped"],
            "comparisons": [_secondary_dict(against, arm, "lead", settings) for arm, against in lead.items()],
        },
        "comparisons": _secondary(scores, settings, arms),
        "cost": cost,
        "signature": "t-interval|documents:paired,jackknife|seeds:welch|adjust:holm",
    }
    write_atomically(run_dir / "verdict.json", json.dumps(result, ensure_ascii=False, indent=1, allow_nan=False) + "\n")
    return result


# ---------------------------------------------------------------- comparisons


def _compared(scores: Scores, settings: Verdict, treatment: str, control: str, metric: Metric) -> Comparison:
    """The margin is in nats, so only comparisons of loss can find "equivalent"."""
    return compare_arms(
        scores.of(treatment, metric),
        scores.of(control, metric),
        metric=metric,
        margin=settings.margin if metric is LOSS else None,
        confidence=settings.confidence,
    )


def _against_lead(scores: Scores, settings: Verdict, arm: str) -> Comparison:
    return compare_arms(
        scores.of(arm, CHRF), scores.of_lead(CHRF), metric=CHRF, confidence=settings.confidence, control_is_fixed=True
    )


def together(found: Sequence[Comparison]) -> list[Comparison]:
    """Widen intervals for their number, as Holm's procedure has it, so that each shows what decides its word.

    With a margin two things can be said, at most one of them wrongly: such a comparison is closed when both are said
    (Shaffer 1986).
    """
    alpha = 1 - found[0].confidence
    levels = holm_levels([max(item.p_value, item.p_equivalence or 0.0) for item in found], alpha)
    return [replace(item, confidence=1 - level) for item, level in zip(found, levels, strict=True)]


def _secondary(scores: Scores, settings: Verdict, arms: Sequence[str]) -> list[dict[str, Any]]:
    """All comparisons but the primary one; in a pair of other arms, the one later in the recipe is the treatment."""
    primary_pair = {settings.treatment, settings.control}
    pairs = [(later, earlier, LOSS) for earlier, later in combinations(arms, 2) if {earlier, later} != primary_pair]
    pairs += [(settings.treatment, settings.control, metric) for metric in (CHRF, ROUGE_L)]
    found = together([_compared(scores, settings, *pair) for pair in pairs])
    return [_secondary_dict(item, *pair[:2], settings) for pair, item in zip(pairs, found, strict=True)]


def _secondary_dict(found: Comparison, treatment: str, control: str, settings: Verdict) -> dict[str, Any]:
    """With the p-value times what the interval was widened by: below 1 - verdict.confidence where that excludes 0."""
    shown = _as_dict(found, treatment, control)
    factor = (1 - settings.confidence) / (1 - found.confidence)
    adjusted = None if shown["p_value"] is None else min(1.0, factor * found.p_value)
    return {"word": found.word, **shown, "p_value_holm": adjusted}


def _as_dict(comparison: Comparison, treatment: str, control: str) -> dict[str, Any]:
    """JSON-able fields of a comparison; infinite ends (a single document) and p-values without seeds become null."""
    names = (
        "metric", "effect", "low", "high", "confidence", "margin", "p_value", "p_equivalence", "suggestion",
        "includes_seeds", "seeds_per_arm", "documents", "better", "treatment_score", "control_score", "standard_error",
        "degrees_of_freedom",
    )  # fmt: skip
    values = {name: getattr(comparison, name) for name in names}
    if not comparison.includes_seeds:
        values |= {"p_value": None, "p_equivalence": None}
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
    return {"treatment": treatment, "control": control, **finite}


# ---------------------------------------------------------------- reading


def read_arms(run_dir: Path, arms: Sequence[str], seeds: Sequence[int]) -> dict[str, list[list[Row]]]:
    """Predictions per arm and seed. Raises DataError unless all hold the same documents in the same order."""
    rows: dict[str, list[list[Row]]] = {arm: [] for arm in arms}
    first: tuple[Path, list[Row]] | None = None
    for arm in arms:
        for seed in seeds:
            path = run_dir / arm / f"seed-{seed}" / "evaluate" / "predictions.jsonl"
            read = _read_predictions(path)
            first = first or (path, read)
            _check_same_documents(path, read, *first)
            rows[arm].append(read)
    return rows


def _read_predictions(path: Path) -> list[Row]:
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
            row = json.loads(line)
            missing = [field for field in (*SHARED_FIELDS, "prediction", "loss_nats") if field not in row]
            if missing or not math.isfinite(row["loss_nats"]) or not 1 <= row["reference_tokens"] < math.inf:
                raise ValueError(f"lacks {', '.join(missing)}" if missing else "loss or token count is not a number")
        except (ValueError, TypeError) as error:
            raise DataError(f"{path}, line {number}: not a prediction ({error}). {remedy}") from None
        rows.append(row)
    if not rows:
        raise DataError(f"{path}: holds no predictions. {remedy}")
    return rows


def _check_same_documents(path: Path, rows: list[Row], first_path: Path, first_rows: list[Row]) -> None:
    """Paired statistics are meaningless otherwise; the same reference must also have the same number of tokens."""
    remedy = "Arms are compared on the same test file, samples and tokenizer: evaluate all of them with one recipe."
    if len(rows) != len(first_rows):
        raise DataError(f"{path}: {len(rows)} documents, but {first_path} has {len(first_rows)}. {remedy}")
    for number, (row, first) in enumerate(zip(rows, first_rows, strict=True), 1):
        for field in SHARED_FIELDS:
            if row[field] != first[field]:
                raise DataError(
                    f"{path}, document {number} (id {row['id']}): its {field} is {str(row[field])[:60]!r}, "
                    f"but {str(first[field])[:60]!r} in {first_path}. {remedy}"
                )
