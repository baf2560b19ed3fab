"""Stage 5: which arm is better, in plain words, from the predictions of all arms and seeds. No torch.

One primary comparison (treatment against control on loss) decides the word. Every other pair of arms on loss, and the
same pair on `verdict.metrics`, is secondary: their intervals are widened together as Holm's procedure has it. So are
those of both arms against the lead baseline, and those of a score by language. The statistics are in `comparison.py`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from polygraft.data.files import RESULT_FORMAT, write_atomically
from polygraft.scoring import predictions
from polygraft.scoring.comparison import ArmScores, Comparison, compare_arms, holm_levels
from polygraft.scoring.forgetting import Forgotten
from polygraft.scoring.metrics import CHRF, LOSS, METRICS, Metric
from polygraft.scoring.predictions import Prediction
from polygraft.scoring.words import sentence
from polygraft.settings import Verdict

FILE = "verdict.json"


class Scores:
    """Scores of all arms; what they are made from is counted once per arm and metric."""

    def __init__(self, rows: dict[str, list[list[Prediction]]]) -> None:
        """`rows` maps each arm to its seeds' documents."""
        self.rows = rows
        self.counted: dict[tuple[str, str], list[np.ndarray]] = {}

    def of(self, arm: str, metric: Metric, language: str | None = None) -> ArmScores:
        """The arm's score per seed and document; of all documents, or of those in one language or direction."""
        key = (arm, metric.name)
        if key not in self.counted:
            self.counted[key] = [metric.statistics(rows) for rows in self.rows[arm]]
        chosen = [language in (None, row.direction) for row in self.some_rows]
        return ArmScores.of([statistics_DK[chosen] for statistics_DK in self.counted[key]], metric)

    @property
    def languages(self) -> list[str]:
        """The languages or directions of the documents."""
        return sorted({row.direction for row in self.some_rows})

    def of_lead(self, metric: Metric) -> ArmScores:
        """The lead baseline's score; it is the same in all arms and seeds."""
        return ArmScores.of([metric.statistics([row.of("lead") for row in self.some_rows])], metric)

    @property
    def some_rows(self) -> list[Prediction]:
        """The documents, as the first seed of an arm has them."""
        return next(iter(self.rows.values()))[0]

    @property
    def lead_is_source(self) -> bool:
        """Whether the lead baseline is all of the source."""
        return all(row.lead == row.source for row in self.some_rows)


def judge(
    run_dir: Path,
    settings: Verdict,
    arms: Sequence[str],
    seeds: Sequence[int],
    cost: Mapping[str, Mapping[str, float]],
    forgotten: Mapping[str, Mapping[str, Forgotten]] | None = None,
) -> dict[str, Any]:
    """Compare the arms in `run_dir` (outputs/<name>), by their predictions alone; return the content of verdict.json.

    Args:
        cost: what each arm spent before fine-tuning, mean over seeds: its "seconds", "flops" and "tokens".
        forgotten: what each arm made of the languages that the target knew, where that was measured.

    Raises:
        DataError: predictions are missing or broken, or the arms were not scored on the same documents.
    """
    scores = Scores(read_arms(run_dir, arms, seeds))
    pair = settings.treatment, settings.control
    primary = _compared(scores, settings, *pair, LOSS)
    lead = dict(zip(pair, together([_against_lead(scores, settings, arm) for arm in pair]), strict=True))
    return {
        "format": RESULT_FORMAT,
        "word": primary.word,
        "sentence": sentence(primary, *pair, lead, cost, copied=scores.lead_is_source, forgotten=forgotten or {}),
        **as_dict(primary, *pair),
        "seeds": list(seeds),
        "lead": {
            "metric": CHRF.name,
            "is_source": scores.lead_is_source,
            "score": lead[settings.treatment].control_score,
            "beaten_by": [arm for arm, against in lead.items() if against.word == "helped"],
            "comparisons": [_secondary_dict(against, arm, "lead", settings) for arm, against in lead.items()],
        },
        "comparisons": _secondary(scores, settings, arms),
        "languages": _by_language(scores, settings),
        "cost": cost,
        "forgetting": forgotten and _as_dicts(forgotten),
        "signature": "t-interval|documents:paired,jackknife|seeds:welch|adjust:holm",
    }


def write(run_dir: Path, found: dict[str, Any]) -> dict[str, Any]:
    """Write verdict.json into a run's folder, and return what is in it."""
    write_atomically(run_dir / FILE, json.dumps(found, ensure_ascii=False, indent=1, allow_nan=False) + "\n")
    return found


# ---------------------------------------------------------------- comparisons


def _compared(
    scores: Scores, settings: Verdict, treatment: str, control: str, metric: Metric, language: str | None = None
) -> Comparison:
    """The margin is in nats, so only comparisons of loss can find "equivalent"."""
    return compare_arms(
        scores.of(treatment, metric, language),
        scores.of(control, metric, language),
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
    pairs += [(settings.treatment, settings.control, metric) for metric in _metrics(settings) if metric is not LOSS]
    found = together([_compared(scores, settings, *pair) for pair in pairs]) if pairs else []
    return [_secondary_dict(item, *pair[:2], settings) for pair, item in zip(pairs, found, strict=True)]


def _metrics(settings: Verdict) -> list[Metric]:
    """What the pair is compared by, loss first."""
    return [LOSS, *(metric for name, metric in METRICS.items() if name in settings.metrics)]


def _by_language(scores: Scores, settings: Verdict) -> list[dict[str, Any]]:
    """The pair in each of several languages or directions; intervals are widened for their number, metric by metric."""
    pair, languages = (settings.treatment, settings.control), scores.languages
    if len(languages) < 2:
        return []
    return [
        {"language": language, **_secondary_dict(item, *pair, settings)}
        for metric in _metrics(settings)
        for found in [together([_compared(scores, settings, *pair, metric, language) for language in languages])]
        for language, item in zip(languages, found, strict=True)
    ]


def _secondary_dict(found: Comparison, treatment: str, control: str, settings: Verdict) -> dict[str, Any]:
    """With the p-value times what the interval was widened by: below 1 - verdict.confidence where that excludes 0."""
    return {"word": found.word, **as_dict(found, treatment, control), **adjusted_p(found, settings.confidence)}


def adjusted_p(found: Comparison, confidence: float) -> dict[str, float | None]:
    """The p-value of one of several comparisons whose intervals `together` has widened, None where there is none."""
    factor = (1 - confidence) / (1 - found.confidence)
    return {"p_value_holm": min(1.0, factor * found.p_value) if found.includes_seeds else None}


def as_dict(comparison: Comparison, treatment: str, control: str) -> dict[str, Any]:
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


def _as_dicts(forgotten: Mapping[str, Mapping[str, Forgotten]]) -> dict[str, dict[str, Any]]:
    return {arm: {language: asdict(one) for language, one in found.items()} for arm, found in forgotten.items()}


# ---------------------------------------------------------------- reading


def read_arms(run_dir: Path, arms: Sequence[str], seeds: Sequence[int]) -> dict[str, list[list[Prediction]]]:
    """Predictions per arm and seed. Raises DataError unless all hold the same documents in the same order."""
    rows: dict[str, list[list[Prediction]]] = {arm: [] for arm in arms}
    first: tuple[Path, list[Prediction]] | None = None
    for arm in arms:
        for seed in seeds:
            path = run_dir / arm / f"seed-{seed}" / "evaluate" / predictions.FILE
            read = predictions.read(path)
            first = first or (path, read)
            predictions.check_same_documents(path, read, *first)
            rows[arm].append(read)
    return rows
