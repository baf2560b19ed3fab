"""What every method of transfer offers, is given, and gives back: plan -> fit -> apply -> diagnose."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from transformers import PreTrainedModel

from polygraft.models.vocabulary import VocabularyMap
from polygraft.settings import Running
from polygraft.transfers.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a method may look at: models in fp32, their vocabularies, and the user's text as token counts.

    Attributes:
        settings: the method's section of the recipe.
        target: the sequence-to-sequence model; `apply` changes it in place.
        vocabulary: the classes of the target's rows.
        tokens: the target's token strings by row, None for rows without a token.
        counts: int64, occurrences of each target row's token in the text; zeros without a text.
        source_before, source_after: the masked language model as downloaded and as adapted, where the method needs it.
        texts: the user's text, document by document, for what is calibrated on hidden states; maybe read at every pass.
        languages: of each document, as the user wrote them.
        source_tokenizer, target_tokenizer: of the two models; no source tokenizer without a source.
        seed: of whatever is drawn at random.
        running: how a method that trains is run.
        adapter: the folder in which the adapted source's adapter is, if it has one.
        out_dir: where a method that trains keeps its checkpoints.
    """

    settings: Any
    target: PreTrainedModel
    vocabulary: VocabularyMap
    tokens: list[str | None]
    counts: np.ndarray
    source_before: Any = None
    source_after: Any = None
    texts: Collection[str] = ()
    languages: Collection[str | None] = ()
    source_tokenizer: Any = None
    target_tokenizer: Any = None
    seed: int = 0
    running: Running = Running()
    adapter: Path | None = None
    out_dir: Path = Path()


@dataclass(frozen=True)
class Changes:
    """What came out: the model, which takes over `Inputs.target`, and of a method that trains what `train` says."""

    model: PreTrainedModel
    trained: dict[str, Any] = field(default_factory=dict)


class Work(Protocol):
    """A module that does a method's work.

    `plan` says where every value of the target will come from, before anything is touched. `fit` estimates what that
    takes; what it gives back may say in `flops` what was spent on it. `apply` carries the plan out. `diagnose` returns
    numbers on what was found and done, every one finite.
    """

    def plan(self, inputs: Inputs) -> Plan: ...
    def fit(self, plan: Any, inputs: Inputs) -> Any: ...
    def apply(self, plan: Any, fitted: Any, inputs: Inputs) -> Changes: ...
    def diagnose(self, plan: Any, fitted: Any, inputs: Inputs, changes: Any) -> dict[str, float]: ...
