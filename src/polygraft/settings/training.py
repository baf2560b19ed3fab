"""How models are trained, and for how long; how a stage is run."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from polygraft.errors import RecipeError
from polygraft.settings.base import OneOf, Settings, Share

Tracker = Literal["tensorboard", "wandb", "trackio", "mlflow", "all"]


def _trackers(value: Any) -> Any:
    """One tracker or a list of them; "none" as transformers has it."""
    names = [value] if isinstance(value, str) else value
    return () if value is None or names == ["none"] else names


SeedNumber = Annotated[int, Field(ge=0, lt=2**32)]
DataSeed = Annotated[
    SeedNumber | None,
    Field(
        description="Seed of which rows are held out, of the order of the data and of noise, whatever the run's seed, "
        "which is then that of new weights and of dropout; without it, the run's seed is that of all."
    ),
]
ReportTo = Annotated[
    tuple[Tracker, ...],
    BeforeValidator(_trackers, json_schema_input_type=Tracker | list[Tracker] | Literal["none"]),
    Field(
        description="Where training is shown while it goes on: tensorboard (files beside the results), wandb, trackio, "
        "mlflow, or all of them that are installed. Nothing is sent anywhere without it."
    ),
]


class Running(Settings):
    """How a stage is run, beside what it does."""

    data_seed: DataSeed = None
    report_to: ReportTo = ()

    def seed_of_data(self, seed: int) -> int:
        """The seed of the data in a run with that seed."""
        return seed if self.data_seed is None else self.data_seed


class Budget(Settings):
    """How long a stage trains: exactly one of the five units."""

    epochs: PositiveFloat | None = None
    """Passes over the training data."""
    steps: PositiveInt | None = None
    """Optimizer steps."""
    tokens: PositiveInt | None = None
    """Real (non-padding) input tokens read."""
    minutes: PositiveFloat | None = None
    """Wall-clock minutes of training, evaluation not counted."""
    flops: PositiveFloat | None = None
    """Floating-point operations of the forward and backward passes, counted by torch's flop counter; what
    `gradient_checkpointing` computes a second time is not charged."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Budget:
        given = [unit for unit, amount in self if amount is not None]
        if len(given) != 1:
            units, found = ", ".join(type(self).model_fields), " and ".join(given) or "none"
            raise ValueError(f"give exactly one of {units}; got {found}")
        return self

    @property
    def unit(self) -> str:
        return next(unit for unit, amount in self if amount is not None)

    @property
    def amount(self) -> float:
        return float(getattr(self, self.unit))


class Lora(Settings):
    """Low-rank changes of linear layers (Hu et al. 2022), by PEFT; merged into the weights when the stage ends."""

    type: Literal["lora"] = "lora"
    """The kind of adapter."""
    r: PositiveInt = 16
    """Rank of the change of each weight matrix."""
    lora_alpha: PositiveInt = 32
    """The change is scaled by lora_alpha / r."""
    lora_dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Dropout of the adapters' inputs."""
    target_modules: list[str] | None = None
    """Ends of the names of the linear layers that are adapted, such as [q_proj, v_proj] in mBART or [query, value] in
    XLM-R; without it all of attention and feed-forward."""


class Bottleneck(Settings):
    """A layer h + U g(D h + d) behind each layer's feed-forward (Pfeiffer et al. 2020); cannot be merged."""

    type: Literal["bottleneck"] = "bottleneck"
    """The kind of adapter."""
    bottleneck_size: PositiveInt = 64
    """Width r of the bottleneck: D is r x d, U is d x r."""
    non_linearity: Literal["relu", "gelu"] = "relu"
    """The function g."""
    normalize: bool = False
    """Whether D reads h as a LayerNorm makes it, and the change is scaled back: for mBART, whose h have any scale."""


Trainable = Literal["all", "no_embeddings", "embeddings", "bridge"]
ADAPTERS: dict[str, type[Settings]] = {"lora": Lora, "bottleneck": Bottleneck}


class Optimization(Settings):
    """How a model is trained, and for how long. Names are those of the Hugging Face Trainer."""

    budget: Budget | None = None
    """How long to train; `adapt_target` without it: for what the arm's earlier stages leave of `adaptation_budget`."""
    learning_rate: PositiveFloat = 5e-5
    """Peak learning rate of AdamW."""
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = "linear"
    """Shape of the decay after the warm-up; it reaches zero when the budget is spent."""
    warmup_steps: NonNegativeFloat = 0.06
    """Optimizer steps of linear warm-up; below 1, a share of the budget."""
    weight_decay: NonNegativeFloat = 0.01
    """AdamW's weight decay; biases and LayerNorm weights are exempt."""
    adam_beta2: Share = 0.98
    """AdamW's second-moment decay."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are clipped to this norm."""
    per_device_train_batch_size: PositiveInt = 16
    """Documents per device and forward pass, all of like length."""
    per_device_train_batch_tokens: PositiveInt | None = None
    """Padded tokens per device and forward pass, instead of a number of documents: short ones then come many at a
    time, long ones few. Of denoising the original's tokens count, of pairs both sides'."""
    gradient_accumulation_steps: PositiveInt = 1
    """Forward passes per optimizer step; the loss stays the mean over all of their tokens."""
    eval_steps: PositiveFloat = 0.25
    """Optimizer steps between evaluations on the validation data; below 1, a share of the budget."""
    save_steps: PositiveFloat = 0.25
    """Optimizer steps between checkpoints to resume from; below 1, a share of the budget."""
    load_best_model_at_end: bool = False
    """Whether the model ends as it was at its best evaluation, not as at the last."""
    early_stopping_patience: PositiveInt | None = None
    """Stop after so many evaluations in a row that were no better than the best before them; learning rates follow the
    whole budget all the same. Needs `load_best_model_at_end`."""
    early_stopping_threshold: NonNegativeFloat = 0.0
    """By more than how much an evaluation has to be better for `early_stopping_patience`."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of the forward pass; "auto" is bf16 where the device has instructions for it, else fp32, or what the
    variable POLYGRAFT_PRECISION says. "fp16", with a gradient scaler, is for GPUs without bf16 (T4, V100). Weights stay
    fp32."""
    gradient_checkpointing: bool = False
    """Keep of each layer only its input, and compute the layer again in the backward pass: far less memory for about a
    third more time, and the same result."""

    @model_validator(mode="after")
    def _what_stopping_needs(self) -> Optimization:
        if self.early_stopping_patience and not self.load_best_model_at_end:
            raise ValueError("early_stopping_patience needs `load_best_model_at_end: true`, or a worse model is saved")
        if self.early_stopping_threshold and not self.early_stopping_patience:
            raise ValueError("early_stopping_threshold means nothing without `early_stopping_patience`")
        return self

    @property
    def training_budget(self) -> Budget:
        """The budget.

        Raises:
            RecipeError: there is none.
        """
        if self.budget is None:
            raise RecipeError("budget: is missing (How long to train.)")
        return self.budget


BALANCE_NEEDS = "needs a column of languages to balance: lang_column of the text, source_lang_column of the pairs"


class Training(Optimization):
    """What every stage that trains a model shares."""

    trim_vocabulary: bool = False
    """Train with only the rows of the vocabulary that the stage's text needs; the saved checkpoint is a full one, its
    other rows unchanged. Saves memory and time; the losses then normalise over fewer classes."""
    trainable: Trainable = "all"
    """Which weights are trained: all, all but the embeddings (the matrix tied to the output layer, and positions), only
    these, or of a graft (transfer method `encoder`) the bridge and the cross-attention. The others get neither
    gradients nor optimizer states."""
    adapter: Annotated[Lora | Bottleneck, OneOf("type", ADAPTERS)] | None = None
    """Train an adapter, `type: lora` or `type: bottleneck`, and nothing else."""
    sampling_temperature: Annotated[float, Field(ge=1.0)] = 1.0
    """Balance languages: of n_i documents (pieces of text, pairs) of language i an epoch reads a number proportional to
    n_i^(1/T). 1 reads each document once, more reads those of small languages more often. Needs a column of languages;
    fairseq's temperature sampling."""

    @model_validator(mode="after")
    def _one_choice_of_weights(self) -> Training:
        if self.adapter is not None and self.trainable != "all":
            raise ValueError(f"an adapter is trained alone: leave out `trainable: {self.trainable}`, or `adapter`")
        return self


def _metric(name: Any) -> Any:
    """A metric by any of its usual names."""
    if not isinstance(name, str):
        return name
    plain = re.sub(r"[^a-z]", "", name.lower().removeprefix("eval_"))
    return {"loss": "loss", "chrf": "chrf++", "bleu": "bleu", "sacrebleu": "bleu", "rougel": "rougeL"}.get(plain, name)


BestMetric = Literal["loss", "chrf++", "bleu", "rougeL"]


class Finetune(Training):
    """Sequence-to-sequence fine-tuning of the target model."""

    max_source_length_tokens: PositiveInt = 512
    """Longer inputs are truncated; special tokens included."""
    max_target_length_tokens: PositiveInt = 128
    """Longer outputs are truncated; special tokens included."""
    label_smoothing_factor: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Label smoothing (0 for none)."""
    load_best_model_at_end: bool = True
    """Whether the model ends as it was at its best evaluation, not as at the last."""
    metric_for_best_model: Annotated[BestMetric, BeforeValidator(_metric)] = "loss"
    """What makes an evaluation the best: the lowest loss on the validation pairs, or the highest score of outputs that
    are decoded for a sample of them; all three scores are then logged."""
    generation_max_samples: PositiveInt = 100
    """Validation pairs in that sample, evenly spread over all."""
    generation_num_beams: PositiveInt = 1
    """Beams by which they are decoded; 1 is greedy."""
    generation_max_length: Annotated[int, Field(ge=3)] = 64
    """Longest output there, the decoder's start token counted."""
