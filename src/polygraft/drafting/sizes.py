"""Lengths from the texts' tokens, batches from the memory, budgets from the time that there is.

Memory and time are those that `polygraft check` estimates (checks/), so that what is chosen here passes there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from polygraft.checks.needs import SAFE_SHARE, Need
from polygraft.checks.stages import Stages
from polygraft.data.dataset import SPECIAL_TOKENS
from polygraft.errors import RecipeError
from polygraft.objectives import Denoising
from polygraft.settings import Budget, Evaluate, Finetune, PairData, TextData

COVERED, STEP, LONGEST = 0.98, 16, 512  # share of the texts that fit whole; lengths are multiples; the most tokens
FEW_DOCUMENTS = 4  # a batch that holds fewer is a reason to save memory in another way
DOCUMENTS_PER_STEP = ((1000, 8), (10_000, 16))  # up to so many training documents; beyond these MOST_PER_STEP
MOST_PER_STEP = 32
SMALL, MIDDLING = 20e6, 200e6  # parameters
MOST_EPOCHS, MOST_PASSES = 10.0, 30.0  # over the pairs, over the text: more time than that is not spent
EVALUATION_SHARE = 0.4  # of the time, at most
ARMS, ADAPTING_ARMS = 3, 2
ONCE = Budget(epochs=1)


class Length(NamedTuple):
    """A limit in tokens, special ones included, and the share of the texts that are longer."""

    tokens: int
    cut: float


class Saving(NamedTuple):
    """A way to save memory: settings of both training stages, and why."""

    settings: dict[str, Any]
    why: dict[str, str]


_TRIM = {"trim_vocabulary": "saves memory: only rows that the texts need are in it; the saved model has all"}
_RECOMPUTE = {"gradient_checkpointing": "saves memory: the forward pass is done again instead of being kept"}
_LORA = {"adapter": "saves memory: only small changes of the weights are trained, and merged in the end"}
_VALUES: dict[str, Any] = {"trim_vocabulary": True, "gradient_checkpointing": True, "adapter": {"type": "lora"}}
SAVINGS = [
    Saving({key: _VALUES[key] for key in way}, way)
    for way in ({}, _TRIM, _TRIM | _RECOMPUTE, _TRIM | _LORA, _TRIM | _RECOMPUTE | _LORA)
]
"""The ways to save memory, in the order in which they are tried: what changes least comes first."""


class BatchSize(NamedTuple):
    """Documents per device and pass, and passes per step."""

    documents: int
    accumulated: int

    @property
    def settings(self) -> dict[str, int]:
        return {"per_device_train_batch_size": self.documents, "gradient_accumulation_steps": self.accumulated}


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """Everything in a recipe that is a number.

    Attributes:
        text, source, target: lengths of plain text, of inputs and of outputs.
        median_target: tokens of the median output.
        saving: how memory is saved, in both training stages.
        adapting, tuning: batches of the two.
        decoded: documents decoded at a time.
        samples: test pairs to score, None for all.
        learning_rate: of both.
        epochs: of fine-tuning; `steps` is how many optimizer steps these are.
        flops: of each arm's adaptation; `passes` is how often it reads the text.
        arm_minutes: that each arm's adaptation takes by estimate.
        memory_bytes, available_bytes: of the hungriest stage, and what there is.
        documents, trained: of plain text, and pairs that are trained on.
    """

    text: Length
    source: Length
    target: Length
    median_target: int
    saving: Saving
    adapting: BatchSize
    tuning: BatchSize
    decoded: int
    samples: int | None
    learning_rate: float
    epochs: float
    steps: int
    flops: float
    passes: float
    arm_minutes: float
    memory_bytes: int
    available_bytes: int
    documents: int
    trained: int


class Texts(NamedTuple):
    """What is trained on and scored, as recipes name it.

    Only `tested` of the test pairs, if not None; some of those trained on are `held_out` to choose the checkpoint.
    """

    text: TextData
    pairs: PairData
    tested: int | None
    held_out: bool


def sizes(estimate: Stages, model: str, texts: Texts, minutes: float, seeds: int) -> Numbers:
    """Choose every number of a recipe.

    Raises:
        DataError: files that cannot be read.
        RecipeError: the memory does not do, in whatever way it is saved.
    """
    return _Choice(estimate, model, texts).sizes(minutes, seeds)


def learning_rate(parameters: int, lora: bool) -> float:
    """Return the peak learning rate of a model of that size; that of LoRA is ten times as high, up to 1e-3."""
    rate = 1e-3 if parameters < SMALL else 1e-4 if parameters < MIDDLING else 3e-5
    return min(1e-3, 10 * rate) if lora else rate


def _length(ids: Sequence[Sequence[int]], room: int) -> Length:
    """The least multiple of STEP that holds COVERED of the texts, or what there is room for."""
    whole = np.array([len(one) + SPECIAL_TOKENS for one in ids])
    covering = int(np.quantile(whole, COVERED, method="inverted_cdf"))
    tokens = min(room, math.ceil(covering / STEP) * STEP)
    return Length(tokens, float((whole > tokens).mean()))


def _per_step(documents: int) -> int:
    return next((size for limit, size in DOCUMENTS_PER_STEP if documents <= limit), MOST_PER_STEP)


def _training_seconds(need: Need) -> float:
    """What grows with a budget: evaluations, loading and saving left out."""
    return need.training_seconds or need.seconds or 1.0


def _rounded(number: float) -> float:
    """A number with two figures, which is as much as an estimate is worth."""
    return float(f"{number:.2g}")


class _Choice:
    """What is known of a model and its texts, and what follows from it."""

    def __init__(self, estimate: Stages, model: str, texts: Texts) -> None:
        self.estimate, self.model, self.texts = estimate, model, texts
        report = estimate.opened[model].report
        self.parameters = report.parameters
        pairs = texts.pairs
        (plain,), self.documents = estimate.tokens(model, texts.text.train_file, (texts.text.text_column,))
        (inputs, outputs), trained = estimate.tokens(model, pairs.train_file or (), tuple(pairs.texts))
        kept = round(trained * (1 - pairs.validation_split)) if texts.held_out else trained
        self.trained = min(kept, pairs.max_train_samples or kept)
        self.scored = texts.tested or estimate.tokens(model, pairs.test_file or (), tuple(pairs.texts))[1]
        room = min(LONGEST, report.max_positions)
        self.text, self.source, self.target = (_length(ids, room) for ids in (plain, inputs, outputs))
        self.median_target = max(1, int(np.median([len(ids) for ids in outputs])))
        self.most = {"adapting": _per_step(self.documents), "tuning": _per_step(self.trained)}
        self.available = estimate.available_bytes

    def sizes(self, minutes: float, seeds: int) -> Numbers:
        saving, batches = self._fit()
        needs = self._needs(saving, batches)
        decoded, scoring = self._decoding()
        # scoring gets what it takes, fine-tuning half of the rest, adaptation the other half
        per_seed = 60 * minutes / seeds
        share = min(1.0, EVALUATION_SHARE * per_seed / ARMS / max(1e-9, scoring))
        samples = None if share == 1.0 else max(1, round(share * self.scored))
        left = per_seed - ARMS * scoring * share
        epoch, reading = (_training_seconds(needs[stage]) for stage in ("tuning", "adapting"))
        epochs = _rounded(min(MOST_EPOCHS, left / 2 / ARMS / epoch))
        passes = min(MOST_PASSES, (left - ARMS * epochs * epoch) / ADAPTING_ARMS / reading)
        tuning = batches["tuning"]
        return Numbers(
            text=self.text,
            source=self.source,
            target=self.target,
            median_target=self.median_target,
            saving=saving,
            adapting=batches["adapting"],
            tuning=tuning,
            decoded=decoded,
            samples=samples,
            learning_rate=learning_rate(self.parameters, "adapter" in saving.settings),
            epochs=epochs,
            steps=max(1, round(epochs * self.trained / (tuning.documents * tuning.accumulated))),
            flops=_rounded(passes * (needs["adapting"].flops or 1.0)),
            passes=passes,
            arm_minutes=passes * reading / 60,
            memory_bytes=max(need.memory_bytes for need in needs.values()),
            available_bytes=self.available,
            documents=self.documents,
            trained=self.trained,
        )

    def _needs(self, saving: Saving, batches: dict[str, BatchSize]) -> dict[str, Need]:
        """What both training stages need for one pass over their data."""
        rate = learning_rate(self.parameters, "adapter" in saving.settings)
        shared = {"budget": ONCE, "learning_rate": rate, **saving.settings}
        adapting = Denoising.model_validate(
            {**shared, **batches["adapting"].settings, "max_length_tokens": self.text.tokens}
        )
        limits = {"max_source_length_tokens": self.source.tokens, "max_target_length_tokens": self.target.tokens}
        tuning = Finetune.model_validate({**shared, **batches["tuning"].settings, **limits})
        return {
            "adapting": self.estimate.text_stage("adapt_target", adapting, self.model, self.texts.text),
            "tuning": self.estimate.finetune(tuning, self.model, self.texts.pairs),
        }

    def _fit(self) -> tuple[Saving, dict[str, BatchSize]]:
        """The first way to save memory in which some documents fit into a batch, and the batches."""
        best, least = None, math.inf
        for saving in SAVINGS:
            needs = self._needs(saving, {stage: BatchSize(number, 1) for stage, number in self.most.items()})
            fitting = {stage: min(self.most[stage], need.proposed_batch_size or 0) for stage, need in needs.items()}
            if all(fitting.values()):
                best = saving, {stage: BatchSize(size, self.most[stage] // size) for stage, size in fitting.items()}
                if min(fitting.values()) >= FEW_DOCUMENTS:
                    break
            else:
                alone = self._needs(saving, {stage: BatchSize(1, 1) for stage in self.most})
                least = min(least, max(need.memory_bytes for need in alone.values()))
        if best is None:
            wanted = math.ceil(least / SAFE_SHARE / 2**20)
            raise RecipeError(
                f"{self.model}: {self.available / 2**20:,.0f} MiB of memory do not do, even with a trimmed vocabulary, "
                f"LoRA and one document at a time: about {wanted:,} MiB would. Give --device-memory {wanted}MiB, a "
                "smaller target, or shorter texts."
            )
        return best

    def _decoding(self) -> tuple[int, float]:
        """How many documents can be decoded at a time, and the seconds that scoring all test pairs takes."""
        settings = Evaluate(
            max_source_length_tokens=self.source.tokens,
            max_new_tokens=self.target.tokens,
            max_samples=self.scored,
        )
        size = settings.per_device_eval_batch_size
        while True:
            trial = settings.model_copy(update={"per_device_eval_batch_size": size})
            need = self.estimate.evaluate(trial, self.model, self.texts.pairs)
            if size == 1 or need.memory_bytes <= SAFE_SHARE * self.available:
                return size, need.seconds or 0.0
            size //= 2
