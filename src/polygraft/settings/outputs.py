"""How outputs are generated, scored, exported and compared; what is measured before."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from polygraft.settings.base import Settings

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


class Serve(Decoding):
    """A page and an HTTP API for fine-tuned models; decoding as it is where a request says nothing."""

    host: str = "127.0.0.1"
    """The address to listen on; any but a loopback one needs a token, in the variable POLYGRAFT_TOKEN."""
    port: Annotated[int, Field(ge=0, lt=2**16)] = 8000
    """The port; 0 takes one that is free."""
    allowed_host: list[str] = Field(default=[])
    """A name by which it may be called, beside localhost and addresses: its own in the network, or a proxy's. Needs the
    token, too."""
    max_text_characters: PositiveInt = 20_000
    """Longest text."""
    max_file_megabytes: PositiveFloat = 10.0
    """Largest file."""
    max_file_rows: PositiveInt = 10_000
    """Most rows of a file."""
    max_waiting: PositiveInt = 128
    """Requests that may wait for a model; one address may have half of them."""


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
    score_column: list[str] = Field(default=[])
    """A column with a number per document, to be averaged: COMET's, a judge's."""
    lower_is_better: list[str] = Field(default=[])
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
    metrics: list[str] = Field(default=["chrf++", "rougeL"])
    """Scores of generated text by which the two arms are compared as well, named as in scores.json: of summaries
    chrf++ and rougeL, of translations bleu and chrf++. The report shows them first."""
