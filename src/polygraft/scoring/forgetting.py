"""What an arm has made of languages that the target knew: differences in denoising loss, with intervals. No torch.

The loss is that of restoring held-out text, per token, of the target as it was, after adaptation, and fine-tuned. The
last also differs because its task is another one: a model that has learned to summarize restores badly whatever it
still knows.

D documents, L languages.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from polygraft.errors import DataError
from polygraft.scoring.comparison import ArmScores, Comparison, compare_arms
from polygraft.scoring.metrics import LOSS, Metric, ratio_of_sums

STATES = TARGET, ADAPTED, FINETUNED = ("target", "adapted", "finetuned")
ALL = "all"
UNIT = "nats per token"
FILE = "losses.npz"


@dataclass(frozen=True, kw_only=True)
class Restored:
    """Documents that a target restored at several points of an arm.

    Attributes:
        languages: code of each document [D].
        tokens: of each document, </s> included, float64 [D].
        nats: -ln p of each document given its noisy source, float64 [D], by state.
    """

    languages: Sequence[str]
    tokens: np.ndarray
    nats: Mapping[str, np.ndarray]

    def per_token(self, state: str) -> dict[str, float]:
        """The loss in each language."""
        of = np.asarray(self.languages)
        sums = {code: (self.nats[state][of == code].sum(), self.tokens[of == code].sum()) for code in sorted(set(of))}
        return {str(code): float(nats / tokens) for code, (nats, tokens) in sums.items()}

    def statistics(self, state: str, codes: Sequence[str]) -> np.ndarray:
        """Nats and tokens of the documents in these languages, each in its language's two columns: [D, 2 L]."""
        of = np.asarray(self.languages)[:, None] == np.asarray(codes)
        both = np.stack([self.nats[state], self.tokens], axis=1)
        return (of[:, :, None] * both[:, None]).reshape(len(of), -1)[of.any(axis=1)]

    def save(self, folder: Path) -> None:
        """Write losses.npz."""
        folder.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {"languages": np.asarray(self.languages), "tokens": self.tokens, **self.nats}
        np.savez(folder / FILE, **arrays)

    @classmethod
    def load(cls, folder: Path) -> Restored:
        """Read losses.npz.

        Raises:
            DataError: it is missing or broken.
        """
        try:
            with np.load(folder / FILE) as found:
                arrays = {key: found[key] for key in found.files}
            nats = {state: arrays[state] for state in STATES}
            return cls(languages=arrays["languages"].tolist(), tokens=arrays["tokens"], nats=nats)
        except (OSError, ValueError, KeyError) as error:
            remedy = "Delete this folder and run the recipe again."
            raise DataError(f"{folder / FILE}: cannot be read ({error}). {remedy}") from None


@dataclass(frozen=True, kw_only=True)
class Shift:
    """A loss after a stage, and by how much it is above that of the target as it was; above 0 is forgetting.

    The interval covers the choice of documents, and with enough seeds theirs; of a single document there is none.
    """

    loss: float
    effect: float
    low: float | None
    high: float | None

    @classmethod
    def of(cls, found: Comparison) -> Shift:
        """From the comparison with the target as it was."""
        low, high = (end if math.isfinite(end) else None for end in (found.low, found.high))
        return cls(loss=found.treatment_score, effect=found.effect, low=low, high=high)


@dataclass(frozen=True, kw_only=True)
class Forgotten:
    """What became of a language, or of all on average: the target's loss as it was, and what followed.

    Attributes:
        includes_seeds: whether the intervals cover the choice of seeds, too.
    """

    documents: int
    target: float
    adapted: Shift
    finetuned: Shift
    confidence: float
    includes_seeds: bool


def forgotten(seeds: Sequence[Restored], confidence: float = 0.95) -> dict[str, Forgotten]:
    """What an arm has forgotten, by language; of several languages also their mean, each counting the same, as "all".

    Raises:
        DataError: the seeds have not restored the same documents.
    """
    first = seeds[0]
    if any(list(one.languages) != list(first.languages) or (one.tokens != first.tokens).any() for one in seeds):
        raise DataError(f"{FILE} of an arm's seeds are of different documents. Run the recipe again.")
    codes = sorted(set(first.languages))
    asked = {code: [code] for code in codes} | ({ALL: codes} if len(codes) > 1 else {})
    return {name: _of_languages(seeds, chosen, confidence) for name, chosen in asked.items()}


def whole_of(by_language: Mapping[str, Forgotten]) -> Forgotten:
    """What became of all languages; of a single one, of that."""
    return by_language[ALL] if ALL in by_language else next(iter(by_language.values()))


def of_runs(arms: Mapping[str, Sequence[Path]], confidence: float = 0.95) -> dict[str, dict[str, Forgotten]]:
    """What each arm has forgotten, from the folders of its seeds (<arm>/seed-<n>).

    Raises:
        DataError: a measurement is missing or broken.
    """
    return {
        arm: forgotten([Restored.load(run / "forgetting") for run in runs], confidence) for arm, runs in arms.items()
    }


def _of_languages(seeds: Sequence[Restored], codes: Sequence[str], confidence: float) -> Forgotten:
    metric = _mean_loss(len(codes))
    before = ArmScores.of([seeds[0].statistics(TARGET, codes)], metric)

    def compared(state: str) -> Comparison:
        after = ArmScores.of([one.statistics(state, codes) for one in seeds], metric)
        return compare_arms(after, before, metric=metric, confidence=confidence, control_is_fixed=True)

    def change(state: str) -> Shift:
        if all((one.nats[state] == one.nats[TARGET]).all() for one in seeds):  # not 0 but for rounding: 0
            return Shift(loss=before.score, effect=0.0, low=0.0, high=0.0)
        return Shift.of(compared(state))

    found = compared(FINETUNED)
    return Forgotten(
        documents=found.documents,
        target=before.score,
        adapted=change(ADAPTED),
        finetuned=change(FINETUNED),
        confidence=confidence,
        includes_seeds=found.includes_seeds,
    )


def _mean_loss(languages: int) -> Metric:
    """The mean over languages of each one's loss per token, from sums [..., 2 L]."""

    def from_sums(sums_K: np.ndarray) -> np.ndarray:
        return ratio_of_sums(sums_K.reshape(*sums_K.shape[:-1], languages, 2)).mean(axis=-1)

    return replace(LOSS, from_sums=from_sums)
