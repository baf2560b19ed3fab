"""The sections of a recipe: one frozen model per section, one docstring per field.

The YAML file of a recipe, the command line's options and ``polygraft schema`` are all read off these classes. Those of
training tasks are in objectives/, those of transfers in transfers/methods.py, the whole in recipe/.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    model_validator,
)
from pydantic_core import PydanticCustomError, PydanticKnownError, core_schema

from polygraft.errors import RecipeError

Share = Annotated[float, Field(ge=0.0, le=1.0)]


def _names(value: Any) -> Any:
    """One name or a list of names; a list of one is that one."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list | tuple):
        raise PydanticCustomError("string_type", "must be text")
    if not value or not all(isinstance(name, str) for name in value):
        raise PydanticCustomError("names", "must be the name of a file, or a list of names: [a.jsonl, b.jsonl]")
    return value[0] if len(value) == 1 else tuple(value)


Files = Annotated[str | tuple[str, ...], BeforeValidator(_names, json_schema_input_type=str | list[str])]
"""Data: a file, a glob, a folder, parallel files of lines, a hub data set, or a list of these (docs/files.md)."""


class Settings(BaseModel):
    """The base of all sections: immutable, and a key that is not a field is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False, defer_build=True
    )


class OneOf:
    """Marks a section that is of one of several kinds, each a class of its own.

    `key` is the field that names the kind, `kinds` the table of them, looked up whenever a section is read; a section
    that does not name its kind is of the `default` one.
    """

    def __init__(self, key: str, kinds: Mapping[str, type[Settings]], default: str | None = None) -> None:
        self.key, self.kinds, self.default = key, kinds, default

    def kind_of(self, section: Mapping[str, Any]) -> type[Settings] | None:
        """The class that reads a section; None where it names no kind that there is."""
        name = section.get(self.key, self.default)
        return self.kinds.get(name) if isinstance(name, str) else None

    def read(self, section: Any) -> Settings:
        """Validate a section by the class of its kind."""
        if isinstance(section, Settings) and type(section) in self.kinds.values():
            return section
        if not isinstance(section, Mapping):
            raise PydanticKnownError("dict_type")
        if (kind := self.kind_of(section)) is not None:
            return kind.model_validate(section)
        if self.key not in section and self.default is None:
            raise PydanticKnownError("union_tag_not_found", {"discriminator": f"'{self.key}'"})
        named = {"discriminator": f"'{self.key}'", "tag": str(section.get(self.key))}
        raise PydanticKnownError("union_tag_invalid", named | {"expected_tags": ", ".join(self.kinds)})

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self.read)

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        for kind in self.kinds.values():
            kind.model_rebuild()  # which `defer_build` has left for its first use
        return {"oneOf": [handler(kind.__pydantic_core_schema__) for kind in self.kinds.values()]}


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


class PlainText(Settings):
    """Where text lies in files, and in which language it is."""

    text_column: str = "text"
    """The column that holds the text (ignored for .txt)."""
    lang: str | None = None
    """Language of the text, which mBART has to be told: `uk`, `uk_UA` and `ukr_Cyrl` mean the same."""
    lang_column: str | None = None
    """The column that names each row's language, for files of several languages; overrides `lang`."""

    @property
    def columns(self) -> list[str]:
        """The columns that each file must have, the text first."""
        return [*self.texts, *self.language_columns]

    @property
    def language_columns(self) -> list[str]:
        """The columns that name languages."""
        return [self.lang_column] if self.lang_column else []

    @property
    def texts(self) -> list[str]:
        """The columns of text; a row that is blank in one of them is left out."""
        return [self.text_column]


class TextData(PlainText):
    """Monolingual text to adapt to."""

    train_file: Files
    """A .txt (one document per line), .jsonl, .json, .csv, .tsv, .parquet or .arrow file, also compressed; a folder, a
    glob, hf://datasets/…, a bundled polygraft/sample/… name, or a list of these: see docs/files.md."""
    validation_file: Files | None = None
    """Held-out text; without it, `validation_split` of the training documents are held out."""
    validation_split: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.05
    """Share of the training documents held out when there is no `validation_file`."""


class PairData(Settings):
    """Labelled pairs: text and summary, or source and translation."""

    train_file: Files | None = None
    """A .jsonl, .json, .csv, .tsv, .parquet or .arrow file, also compressed; parallel files of lines as train.{en,uk};
    a folder, a glob, hf://datasets/…, a bundled polygraft/sample/… name, or a list of these: see docs/files.md."""
    validation_file: Files | None = None
    """Development pairs, which choose the best checkpoint; without it, `validation_split` of the training pairs."""
    validation_split: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """Share of the training pairs held out when there is no `validation_file`."""
    test_file: Files | None = None
    """Pairs that `evaluate` scores; never seen in training."""
    text_column: str = "text"
    """The column of the input text."""
    summary_column: str = "summary"
    """The column of the output text: the summary or the translation."""
    source_lang: str | None = None
    """Language of the input: `uk`, `uk_UA` and `ukr_Cyrl` mean the same."""
    target_lang: str | None = None
    """Language of the output; without it, in training that of the input, else the one that training recorded."""
    source_lang_column: str | None = None
    """The column that names each row's input language; overrides `source_lang`."""
    target_lang_column: str | None = None
    """The column that names each row's output language; overrides `target_lang`."""
    max_train_samples: PositiveInt | None = None
    """Use only the first so many training pairs."""

    @property
    def columns(self) -> list[str]:
        """The columns that each file must have, the text first."""
        return [*self.texts, *self.language_columns]

    @property
    def language_columns(self) -> list[str]:
        """The columns that name languages."""
        return [column for column in (self.source_lang_column, self.target_lang_column) if column]

    @property
    def texts(self) -> list[str]:
        """The columns of text; a row that is blank in one of them is left out."""
        return [self.text_column, self.summary_column]


class AddLanguages(Settings):
    """Languages that the target has no code for."""

    relatives: dict[str, str]
    """New code -> the known language whose row it starts from."""


class Trim(Settings):
    """A checkpoint's vocabulary, reduced to what a text needs."""

    train_file: Files
    """Files of text, as for `adapt` and `finetune`."""
    text_column: list[str] = ["text"]
    """The columns whose text is needed (`text` and `summary` for pairs)."""


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


Placebo = Literal["recentre", "random", "permuted", "untuned"]


class Diagnose(Settings):
    """What is measured on held-out text before fine-tuning: does the transfer help, and by what the source knows?"""

    max_samples: PositiveInt = 200
    """Held-out documents that are read."""
    placebos: tuple[Placebo, ...] = ("recentre", "random", "permuted", "untuned")
    """What every transfer has to beat, each at the cost of its own `adapt_target`: `recentre` (rows mended, nothing
    transferred), `random` (noise of the same size), `permuted` (real values, wrong tokens), `untuned` (the source
    before it was adapted)."""


class Decoding(Settings):
    """How outputs are generated. Names are those of transformers' `generate`."""

    max_source_length_tokens: PositiveInt = 512
    """Longer inputs are truncated, as in fine-tuning; special tokens included."""
    num_beams: PositiveInt = 4
    """Beams of the search; 1 is greedy."""
    max_new_tokens: PositiveInt = 64
    """Longest output."""
    no_repeat_ngram_size: Annotated[int, Field(ge=0)] = 3
    """No n-gram of this size occurs twice in an output (0: no limit)."""
    per_device_eval_batch_size: PositiveInt = 32
    """Documents decoded at a time."""

    def arguments(self) -> dict[str, Any]:
        """What `generate` is given; what is not said is as the checkpoint's generation_config.json has it."""
        aside = {"max_source_length_tokens", "per_device_eval_batch_size"}
        given = self.model_dump(include=set(Decoding.model_fields) - aside)
        return given | {"do_sample": False}


class Evaluate(Decoding):
    """Decoding and scoring of the test pairs."""

    max_samples: PositiveInt | None = None
    """Score only the first so many test pairs."""
    lead_tokens: Annotated[int, Field(ge=0)] = 16
    """Length of the lead baseline: the first so many tokens of the input; 0 for all of it, as translations want it."""


class Forgetting(PlainText):
    """Held-out text in languages that the target knew before: what becomes of them."""

    test_file: Files
    """Text that no stage trains on: a file, a glob, a folder, a bundled name, or a list of these; see docs/files.md."""
    max_samples: PositiveInt = 100
    """Documents of each language that are read, the first ones."""


class Generate(Decoding):
    """Generating outputs for texts."""

    num_return_sequences: PositiveInt = 1
    """Outputs per text, the best first."""
    min_new_tokens: PositiveInt | None = None
    """Shortest output."""
    length_penalty: float | None = None
    """Beams are ranked by their log-probability over their length to this power: above 0 longer ones gain."""
    early_stopping: bool | None = None
    """Whether a search ends as soon as there are num_beams ended beams."""
    repetition_penalty: PositiveFloat | None = None
    """Divides the scores of tokens that the output has already; 1 changes nothing."""
    do_sample: bool = False
    """Whether tokens are drawn, by `temperature`, `top_k` and `top_p`, from a generator of `--seed`."""
    temperature: PositiveFloat | None = None
    """Of sampling: below 1 likely tokens become more likely."""
    top_k: PositiveInt | None = None
    """Of sampling: only the k most likely tokens are drawn."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Of sampling: only the most likely tokens are drawn that have this probability together."""

    @model_validator(mode="after")
    def _enough_beams(self) -> Generate:
        if not self.do_sample and self.num_return_sequences > self.num_beams:
            raise ValueError(
                f"num_return_sequences {self.num_return_sequences} is more than the {self.num_beams} beams"
            )
        return self

    def arguments(self) -> dict[str, Any]:
        own = set(Generate.model_fields) - set(Decoding.model_fields)
        return super().arguments() | self.model_dump(include=own, exclude_none=True)


Quantization = Literal[
    "float32", "float16", "bfloat16", "int16", "int8", "int8_float16", "int8_float32", "int8_bfloat16"
]  # fmt: skip


class Export(Decoding):
    """Writing a fine-tuned model for another engine, and comparing it with the original."""

    format: Literal["ctranslate2"] = "ctranslate2"
    """The engine: CTranslate2, on CPUs and GPUs."""
    quantization: Quantization = "float32"
    """How weights are stored: int8 is a quarter of the size, and fast on CPUs."""
    max_samples: PositiveInt = 200
    """Validation rows on which the exported model is compared with the original."""


class InputData(Settings):
    """Texts that a model is to read, and where its outputs go."""

    input_file: Files = "-"
    """Texts in any format that training reads (docs/files.md); - is standard input, one text per line."""
    text_column: str = "text"
    """The column that holds the text (ignored for .txt)."""
    prediction_column: str = "prediction"
    """What the column of outputs is called; all other columns stay as they are."""
    source_lang: str | None = None
    """Language of the texts; without it, the one that the checkpoint records."""
    target_lang: str | None = None
    """Language of the outputs; without it, the one that the checkpoint records."""
    source_lang_column: str | None = None
    """The column that names each text's language; overrides `source_lang`."""
    target_lang_column: str | None = None
    """The column that names each output's language; overrides `target_lang`."""
    skip_bad_rows: bool = False
    """Whether a row that cannot be read is left out of the output, and counted, instead of ending the work."""

    @property
    def columns(self) -> list[str]:
        """The columns that each row must have, the text first."""
        return [self.text_column, *(c for c in (self.source_lang_column, self.target_lang_column) if c)]


BleuTokenizer = Literal["13a", "intl", "zh", "char", "none", "ja-mecab", "ko-mecab"]
"""sacreBLEU's, without those that it downloads."""


class OutputScoring(Settings):
    """Outputs of any toolkit: where what is in their files, and how they are scored."""

    prediction_column: str = "prediction"
    """The column that holds the outputs (ignored for .txt)."""
    reference_column: str | None = None
    """The column of references; without it `reference`, where there is one."""
    references: str | None = None
    """A file that has the references, where those of the outputs have none."""
    id_column: str | None = None
    """By which rows of several files are one document; without it `id`, or the order where there is none."""
    source_column: str | None = None
    """The column of what the system read, for the copy rate; without it `source`, where there is one."""
    lang: str | None = None
    """The language that the outputs should be in; overrides `lang_column`."""
    lang_column: str | None = None
    """The column that names each output's language; without it `lang`, where there is one."""
    score_column: list[str] = []
    """A column with a number per document, to be averaged: COMET's, a judge's."""
    lower_is_better: list[str] = []
    """A score column that should be low."""
    tokenize: BleuTokenizer | None = None
    """sacreBLEU's tokenizer for BLEU; without it that of the language."""
    confidence: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.95
    """Level of the intervals."""

    @model_validator(mode="after")
    def _low_ones_are_scores(self) -> OutputScoring:
        if odd := sorted(set(self.lower_is_better) - set(self.score_column)):
            raise ValueError(f"lower_is_better: '{odd[0]}' is no column of scores. Name it as one (score_column), too.")
        return self


class Verdict(Settings):
    """Which arms are compared, and how large a difference matters."""

    treatment: str
    """The arm whose benefit is in question."""
    control: str
    """The arm that it has to beat."""
    margin: PositiveFloat = 0.05
    """Arms are equivalent if the interval of their difference in loss (nats per reference token) lies within ± this."""
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.95
    """Level of the intervals."""
    metrics: list[str] = ["chrf++", "rougeL"]
    """Scores of generated text by which the two arms are compared as well, named as in scores.json: of summaries
    chrf++ and rougeL, of translations bleu and chrf++. The report shows them first."""
