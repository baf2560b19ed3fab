"""The whole of a recipe: its sections, its arms, and what is compared."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from polygraft.objectives import DEFAULT_OBJECTIVE, MLM, OBJECTIVES, TextTask, WarmUp
from polygraft.settings import (
    Budget,
    DataSeed,
    Diagnose,
    Evaluate,
    Finetune,
    Forgetting,
    OneOf,
    PairData,
    ReportTo,
    Running,
    Settings,
    TextData,
    Verdict,
)
from polygraft.transfers.methods import DEFAULT_METHOD, METHODS, Method

VERSION = 1


def _known(version: int) -> int:
    if version != VERSION:
        raise PydanticCustomError(
            "version", f"is not known: this polygraft reads version {VERSION}; install another one"
        )
    return version


class Recipe(Settings):
    """The whole way from text to verdict."""

    version: Annotated[int, AfterValidator(_known)] = VERSION
    """Of the recipe's language; raised when what is written in one would mean something else."""
    name: str
    """Results go to `output_dir`/`name`."""
    output_dir: str = "outputs"
    """Where all results live."""
    seeds: list[int] = Field([1])
    """The whole recipe is run once per seed; a verdict needs several."""
    data_seed: DataSeed = None
    report_to: ReportTo = ()
    source: str | None = None
    """The masked language model that learns from the text: hub name, folder, or polygraft/nano-xlmr."""
    target: str = "polygraft/nano-mbart"
    """The sequence-to-sequence model that is fine-tuned: hub name, folder, or polygraft/nano-mbart."""
    add_languages: dict[str, str] | None = None
    """Languages to add to the target, each with the known one whose row it starts from: {da_DK: sv_SE}."""
    text: TextData | None = None
    """Monolingual text; needed by `adapt` and `adapt_target`."""
    pairs: PairData
    """Labelled pairs; needed by `finetune` and `evaluate`."""
    adaptation_budget: Budget | None = None
    """What `adapt`, `transfer`, `warm_up` and `adapt_target` of an arm may spend together, in flops, minutes or tokens;
    `adapt_target`, then without a budget of its own, gets what the others leave."""
    adapt: MLM | None = None
    """Stage 1: continued pretraining of the source on the text. Leave out to use the source as it is."""
    transfer: Annotated[Method, OneOf("method", METHODS, DEFAULT_METHOD)] | None = None
    """Stage 2: from the source into the target. Leave out to use the target as it is."""
    warm_up: WarmUp | None = None
    """With `transfer: {method: encoder}`: denoising on the text that trains only what reads the encoder."""
    adapt_target: Annotated[TextTask, OneOf("objective", OBJECTIVES, DEFAULT_OBJECTIVE)] | None = None
    """Continued pretraining of the target on the text, before fine-tuning (with `transfer`: after it)."""
    diagnose: Diagnose | None = None
    """Measure before fine-tuning whether the transfers help, placebos beside them (as `polygraft diagnose` does)."""
    finetune: Finetune
    """Stage 3: fine-tuning on the pairs."""
    evaluate: Evaluate = Evaluate()
    """Stage 4: decoding and scoring the test pairs."""
    forgetting: Forgetting | None = None
    """Measure what adaptation and fine-tuning make of languages that the target knew before, on held-out text."""
    arms: dict[str, dict[str, Any]] = Field({})
    """Named variants of this recipe: each overrides sections (null leaves a stage out). Without arms: one, `main`."""
    verdict: Verdict | None = None
    """Stage 5: the comparison that the report leads with."""

    @property
    def running(self) -> Running:
        """How all of its stages are run."""
        return Running(data_seed=self.data_seed, report_to=self.report_to)
