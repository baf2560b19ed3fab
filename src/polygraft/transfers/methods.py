"""The methods of transfer: the settings of each, what it needs and costs, what its figures mean, and the table of them.

A method is a module with four functions (`transfers/contract.py`), and a class of settings here, which names the module
and stands in METHODS. Recipes, `polygraft transfer` and its help, `check`, `diagnose` and the report read these classes
and nothing else of a method.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any, ClassVar, Literal

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from polygraft.settings import ADAPTERS, Bottleneck, Budget, Lora, OneOf, Optimization, Running, Settings, TextData

Control = Literal["none", "random", "permuted"]


@dataclass(frozen=True)
class Needs:
    """What a transfer cannot do without.

    Attributes:
        source_before, source_after: the source as it was, and as adaptation left it (the same where nothing did).
        text: what the models read while they are compared; languages included.
        adaptation: that the source was adapted, since what that changed is moved.
        adapter: that it was adapted by an adapter alone, since that is moved.
    """

    source_before: bool = False
    source_after: bool = False
    text: bool = False
    adaptation: bool = False
    adapter: bool = False

    @property
    def source(self) -> bool:
        return self.source_before or self.source_after


@dataclass(frozen=True)
class Sizes:
    """What a price depends on: widths and parameters of the two models, and what a training pass takes.

    Attributes:
        source_width, source_layers, source_body: of the source; parameters without embeddings. 0 without a source.
        rows, width, encoder_layers, encoder_inner, encoder_body: of the target; parameters of its encoder's layers.
        result_bytes: of the model that comes out.
        pass_bytes: what a training pass over (documents, tokens each) takes beside the weights.
    """

    source_width: int
    source_layers: int
    source_body: int
    rows: int
    width: int
    encoder_layers: int
    encoder_inner: int
    encoder_body: int
    result_bytes: int
    pass_bytes: Callable[[int, int], int]

    @property
    def matrix_bytes(self) -> int:
        """Bytes of the target's embedding matrix."""
        return 4 * self.rows * self.width


@dataclass(frozen=True)
class Price:
    """What a transfer takes beside the models in memory, at its peak, and does.

    `trains` is the budget of a method that trains, whose operations are not among `flops`.
    """

    beside_bytes: float
    flops: float
    trains: Budget | None = None


CKA_TOKENS, CKA_BATCHES = 512, 16  # on which layers are matched
# Attention and padding, over weights and real tokens alone: 1.4 to 1.5 where benchmarks/transfer.py calibrated at real
# size; that the estimates are right is tested at a small one.
PADDED = 1.4
ADAM_STATES = 2


class Method(Settings):
    """A method of transfer."""

    method: str
    """The transfer method."""

    compares_states: ClassVar[bool] = False
    """Whether both models read the text, which then has to be in languages of the target."""
    replaces_encoder: ClassVar[bool] = False
    """Whether the source's encoder reads in place of the target's in the model that comes out."""
    work: ClassVar[str]
    """The module with its `plan`, `fit`, `apply` and `diagnose`; imported when the transfer runs."""
    explanations: ClassVar[Mapping[str, str]] = {}
    """A sentence on each of its diagnostics, by the name up to the first dot."""

    @property
    def needs(self) -> Needs:
        """What it cannot do without."""
        return Needs()

    @property
    def variant(self) -> tuple[str, str]:
        """The setting that tells it from others, and its value: a method, or a mode of one."""
        return "method", str(self.method)

    @property
    def reads_rows_alone(self) -> bool:
        """Whether it reads nothing of a source but its embedding matrix: the rest of its file is not loaded."""
        return False

    @property
    def title(self) -> str:
        """What it is called in messages."""
        return " ".join(self.variant)

    @property
    def draws(self) -> bool:
        """Whether another seed gives another result."""
        return self.placebo

    @property
    def placebo(self) -> bool:
        """Whether what it writes is made to look like the source's, and is not."""
        return getattr(self, "control", "none") != "none"

    def with_control(self, control: Control) -> Method | None:
        """The placebo of that kind, at the same cost; None where it has no such."""
        return self.model_copy(update={"control": control}) if "control" in type(self).model_fields else None

    def price(self, sizes: Sizes) -> Price:
        """What it costs between models of these sizes."""
        return Price(0, 0.0)

    def result_config(self, source: Any, target: Any, max_positions: int) -> Any:
        """The configuration of the model that comes out."""
        return target

    def load(self) -> Any:
        """Import the module that does the work, a `contract.Work`."""
        return import_module(self.work)


ROWS_EXPLAINED = {
    "dead_rows": "Embedding rows that the target never learned, in all and per script: their tokens did not occur in "
    "its training, so the rows are noise around a common drift.",
    "dead_language_codes": "Language codes among the rows that the target never learned.",
    "dead_rows_drift_share": "Share of the never-learned rows' squared length that is one common direction: what the "
    "tied output matrix does to every token that never occurs.",
    "dead_rows_radius": "Median distance of the never-learned rows from their common drift.",
    "dead_rows_spread": "How much these distances vary, where 1 is pure Gaussian noise.",
    "dead_rows_isotropy": "How evenly the never-learned rows fill all directions once the drift is gone: 1 is pure "
    "noise, which means that nothing is lost by replacing them.",
    "dead_rows_pad_offset": "Distance of the row of <pad>, which is never a target, from the common drift, in radii: "
    "near 0 if these rows were never targets either.",
    "fit_rows": "Tokens that both models know, on which the linear map between their embeddings was fitted.",
    "heldout_rows": "Tokens kept out of the fit, on which the map is judged.",
    "heldout_r2": "Share of the target embeddings' variance that the map explains on tokens it was not fitted on: "
    "1 is perfect, 0 no better than the mean row.",
    "csls_precision_at_1": "How often a mapped row's nearest neighbour among the target's rows is its own token, "
    "corrected for rows that are near everything (CSLS).",
    "mean_pairwise_cosine": "Mean cosine between two rows: near 1, rows point the same way and cannot tell their "
    "tokens apart; near 0, they can.",
    "median_norm": "Median length of the rows; new rows should be about as long as trained ones.",
    "changed_rows": "Rows that the transfer rewrote.",
    "change_norm": "Mean length of the change of a rewritten row; compare it with the median length of a row.",
    "text_share_changed": "Share of the text's tokens whose rows were rewritten: where it is small, the transfer "
    "cannot matter much.",
    "text_share_dead": "Share of the text's tokens whose rows the target never learned.",
}


class EmbeddingsTransfer(Method):
    """Transfer through the embedding matrices (see docs/methods.md)."""

    method: Literal["embeddings"] = "embeddings"
    """The transfer method."""
    mode: Literal["repair", "recentre", "delta"] = "repair"
    """`repair`: new values, mapped from the source, for rows that the target never learned. `recentre`: the same rows
    lose their common drift and nothing is transferred (the control; needs no source). `delta`: what adaptation changed
    in the source is added, mapped, to the target's rows."""
    ridge_lambda: NonNegativeFloat = 0.1
    """Regularisation of the linear map, relative to the mean variance of the source's rows."""
    alpha: PositiveFloat = 1.0
    """`delta`: factor on the mapped change."""
    shrinkage_count: NonNegativeFloat = 5.0
    """`delta`: a row seen n times in the text moves by n / (n + shrinkage_count) of its mapped change."""
    norm_scale: PositiveFloat | None = None
    """`repair`, `recentre`: distance of the new rows from the mean, relative to the median of well-trained rows;
    without it 0.8 for rows mapped from the source and 1 for recentred ones, the best of each on development text."""
    control: Control = "none"
    """What is written in place of the source's rows (of `delta`, their changes), to see whether they matter: `random`
    ones of the same mean and lengths, or the real ones `permuted`, so that each is another token's."""

    work: ClassVar[str] = "polygraft.transfers.rows.embeddings"
    explanations: ClassVar[Mapping[str, str]] = ROWS_EXPLAINED

    @property
    def needs(self) -> Needs:
        if self.mode == "recentre":
            return Needs()
        changes = self.mode == "delta"
        return Needs(source_before=changes, source_after=True, text=changes, adaptation=changes)

    @property
    def variant(self) -> tuple[str, str]:
        return "mode", str(self.mode)

    @property
    def reads_rows_alone(self) -> bool:
        return self.mode != "delta"  # whose sources benchmarks/transfer.py found in memory as a whole

    def price(self, sizes: Sizes) -> Price:
        """Four copies of the target's rows, as benchmarks/transfer.py measures it at real size; the map's moments."""
        return Price(4 * sizes.matrix_bytes, 2.0 * sizes.rows * sizes.source_width * (sizes.source_width + sizes.width))

    @model_validator(mode="after")
    def _changes_something(self) -> EmbeddingsTransfer:
        if self.mode == "recentre" and self.control != "none":
            raise ValueError(
                f"control: {self.control} stands in for what comes from the source, and mode: recentre takes nothing "
                "from it: leave `control` out, or use mode: repair"
            )
        return self


class NoTransfer(Method):
    """No transfer: the target as it is, as a control in which the source plays no part."""

    method: Literal["none"] = "none"
    """The transfer method."""

    work: ClassVar[str] = "polygraft.transfers.nothing"


class StatesTransfer(Method):
    """What the methods on hidden states share."""

    compares_states: ClassVar[bool] = True
    control: Control = "none"
    """A placebo at the same cost. `random`: noise of the same size in place of what was learned. `permuted`: what was
    learned, given to the wrong tokens. See docs/diagnose.md, Controls."""
    rows: Literal["repair", "recentre", "keep"] = "repair"
    """What becomes of rows that the target never learned, before anything else: see method `embeddings`."""
    calibration_tokens: PositiveInt = 100_000
    """Tokens of the text on which the maps are fitted; a tenth of the documents is held out."""

    @property
    def needs(self) -> Needs:
        return Needs(source_before=True, source_after=True, text=True, adaptation=True)

    @property
    def row_method(self) -> EmbeddingsTransfer | None:
        """What is done to never-learned rows; None for nothing."""
        return None if self.rows == "keep" else EmbeddingsTransfer(mode=self.rows)

    def calibration_flops(self, sizes: Sizes, passes: int = 1, matches_layers: bool = True) -> float:
        """Passes of both encoders over the text, to match their layers and to fit maps between them."""
        tokens = passes * self.calibration_tokens
        if matches_layers:
            tokens += min(self.calibration_tokens, CKA_TOKENS * CKA_BATCHES)
        maps = 2.0 * sizes.rows * sizes.source_width * (sizes.source_width + sizes.width)
        return maps + 2.0 * PADDED * tokens * (sizes.source_body + sizes.encoder_body)


class BottleneckTransfer(StatesTransfer):
    """Transfer of an adapter, bottlenecks or LoRA, that was trained in the source (see docs/hidden-states.md)."""

    method: Literal["bottleneck"] = "bottleneck"
    """The transfer method."""
    ridge_lambda: NonNegativeFloat = 0.1
    """Regularisation of the maps between the hidden states, relative to their mean variance."""

    work: ClassVar[str] = "polygraft.transfers.states.bottleneck"
    explanations: ClassVar[Mapping[str, str]] = ROWS_EXPLAINED | {
        "layer_map": "Layer of the source that is most like this layer of the target, in order (by CKA).",
        "input_map_heldout_r2": "Share of the variance of a source layer's states that a linear map explains from the "
        "target's, on documents that it was not fitted on: what the carried adapter reads.",
        "output_map_heldout_r2": "Share of the variance of a target layer's states that a linear map explains from the "
        "source's, on documents that it was not fitted on: what becomes of the adapter's change.",
        "change_heldout_r2": "Share of the wanted change of a layer's states that what was carried makes, on held-out "
        "documents: 1 is all of it, below 0 it is worse than nothing.",
        "change_heldout_r2_centred": "The same beyond what all tokens have in common: knowledge of single tokens.",
        "end_wanted": "Size of the change that the source's adaptation asks of the encoder's last states, relative to "
        "their spread.",
        "end_cosine": "Cosine of the change of the encoder's last states that was made with the one that was wanted.",
        "end_cosine_centred": "The same beyond what all tokens have in common: knowledge of single tokens.",
        "end_ratio": "Size of the change that was made, relative to the one that was wanted.",
    }

    @property
    def needs(self) -> Needs:
        return Needs(source_before=True, source_after=True, text=True, adaptation=True, adapter=True)

    def price(self, sizes: Sizes) -> Price:
        """Two passes, to fit maps and to carry adapters through them; moments in float64.

        These are of maps there and back per source layer, held out or not; or of what carries LoRA.
        """
        b, inner = sizes.width + 1, sizes.encoder_inner + 1
        of_maps = 2 * 2 * sizes.source_layers * (sizes.source_width + 1 + b) ** 2
        moments = 8 * max(of_maps, sizes.encoder_layers * inner * (inner + b))
        return Price(4 * sizes.matrix_bytes + moments, self.calibration_flops(sizes, passes=2))


class EncoderTransfer(StatesTransfer):
    """Transfer of the source's whole encoder, put before the target's decoder (see docs/hidden-states.md)."""

    method: Literal["encoder"] = "encoder"
    """The transfer method."""
    ridge_lambda: NonNegativeFloat = 1e-3
    """Regularisation of the bridge between the hidden states, relative to their mean variance."""

    replaces_encoder: ClassVar[bool] = True
    work: ClassVar[str] = "polygraft.transfers.states.encoder"
    explanations: ClassVar[Mapping[str, str]] = ROWS_EXPLAINED | {
        "bridge_heldout_r2": "Share of the variance of the target's own last states that the bridge explains from the "
        "source's, on documents that it was not fitted on.",
        "bridge_fit_tokens": "Tokens of the text on which the bridge was fitted.",
        "bridge_heldout_tokens": "Tokens of the documents kept out of the fit.",
    }

    @property
    def needs(self) -> Needs:
        return Needs(source_after=True, text=True)

    def price(self, sizes: Sizes) -> Price:
        """The graft and its saved copy beside two copies of the target's rows, or four of these."""
        graft = 2 * sizes.matrix_bytes + sizes.result_bytes + 4 * sizes.rows * sizes.source_width
        return Price(max(4 * sizes.matrix_bytes, graft), self.calibration_flops(sizes, matches_layers=False))

    def result_config(self, source: Any, target: Any, max_positions: int) -> Any:
        from polygraft.models.graft import graft_config

        return graft_config(source, target, max_positions)


class DistillTransfer(StatesTransfer, Optimization):
    """Transfer of what adaptation changed in the source's hidden states, by training the target's encoder."""

    method: Literal["distill"] = "distill"
    """The transfer method."""
    ridge_lambda: NonNegativeFloat = 1e-3
    """Regularisation of the maps between the hidden states, relative to their mean variance."""
    general: TextData | None = None
    """Text in which the target's states should stay as they are: of other languages or subjects."""
    anchor_weight: NonNegativeFloat = 1.0
    """Weight of a token of the general text, that of a token of the user's text being 1."""
    max_length_tokens: PositiveInt = 256
    """Longer documents are cut into pieces of at most this length, special tokens included."""
    weight_decay: NonNegativeFloat = 0.0
    """AdamW's weight decay; with any, the target changes even where the source did not."""
    adapter: Annotated[Lora | Bottleneck, OneOf("type", ADAPTERS)] | None = None
    """Train an adapter of the encoder's layers, `type: lora` or `type: bottleneck`, in place of these."""

    work: ClassVar[str] = "polygraft.transfers.states.distill"
    explanations: ClassVar[Mapping[str, str]] = ROWS_EXPLAINED | {
        "matched_source_layer": "Layer of the source that is most like this layer of the target, in order.",
        "layer_cka": "How alike the states of the two layers are, whatever their axes: 1 is the same geometry (CKA).",
        "state_map_heldout_r2": "Share of the variance of a target layer's states that the linear map explains from "
        "the matched layer of the source, on documents that it was not fitted on.",
        "state_map_fit_tokens": "Tokens of the text on which the maps between states were fitted.",
        "state_map_heldout_tokens": "Tokens of the documents kept out of the fit.",
        "change_asked": "Squared change that the source's adaptation asks of the target's states, relative to their "
        "variance, mean over layers: near 0, adaptation changed little.",
        "change_reached": "Share of that which the target's encoder has learned, on held-out documents: 1 is all of "
        "it.",
    }

    @property
    def draws(self) -> bool:
        return True

    def price(self, sizes: Sizes) -> Price:
        """The encoder as it was, gradients and states of the one that is trained, and a pass."""
        kept = (2 + ADAM_STATES) * 4 * sizes.encoder_body
        passes = sizes.pass_bytes(self.per_device_train_batch_size, self.max_length_tokens)
        return Price(kept + passes, self.calibration_flops(sizes), self.training_budget)


DEFAULT_METHOD = "embeddings"
METHODS: dict[str, type[Method]] = {
    "embeddings": EmbeddingsTransfer,
    "bottleneck": BottleneckTransfer,
    "encoder": EncoderTransfer,
    "distill": DistillTransfer,
    "none": NoTransfer,
}


def depends_on_seed(settings: Method, text: TextData | None) -> bool:
    """Whether another seed gives another result: by what is drawn, or by which rows of the text are held out."""
    return settings.draws or _holds_out(text)


def seeds_of(settings: Method, text: TextData | None, seed: int, running: Running) -> tuple[int | None, Running]:
    """What a transfer's result depends on: the seed of what is drawn or held out, and that of the data beside it."""
    if settings.draws:
        return seed, running
    return (running.seed_of_data(seed) if _holds_out(text) else None), Running()


def _holds_out(text: TextData | None) -> bool:
    return text is not None and text.validation_file is None
