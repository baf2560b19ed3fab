"""The sections of a transfer, one per method."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from polygraft.settings import Denoising, Settings, TextData, Training


class Embeddings(Settings):
    """Transfer through the embedding matrices (see docs/methods.md)."""

    method: Literal["embeddings"] = "embeddings"
    """The transfer method."""
    mode: Literal["repair", "recentre", "delta", "replace"] = "repair"
    """`repair`: new values, mapped from the source, for rows that the target never learned. `recentre`: the same rows
    lose their common drift and nothing is transferred (the control; needs no source). `delta`: what adaptation changed
    in the source is added, mapped, to the target's rows. `replace`: mapped rows for all that the source learned, also
    where the target knows better: mostly a control."""
    estimator: Literal["ridge", "procrustes"] = "ridge"
    """How the linear map between the embedding spaces is fitted: any matrix, by ridge regression; or a rotation with
    one factor for the scale, by orthogonal Procrustes."""
    ridge_lambda: NonNegativeFloat = 0.1
    """`ridge`: regularisation of the linear map, relative to the mean variance of the source's rows."""
    alpha: PositiveFloat = 1.0
    """`delta`: factor on the mapped change."""
    shrinkage_count: NonNegativeFloat = 5.0
    """`delta`: a row seen n times in the text moves by n / (n + shrinkage_count) of its mapped change."""
    norm_scale: PositiveFloat | None = None
    """`repair`, `recentre`: distance of the new rows from the mean, relative to the median of well-trained rows;
    without it 0.8 for rows mapped from the source and 1 for recentred ones, the best of each on development text."""
    control: Literal["none", "random", "permuted"] = "none"
    """What is written in place of the source's rows (of `delta`, their changes), to see whether they matter: `random`
    ones of the same mean and lengths, or the real ones `permuted`, so that each is another token's."""
    final_logits_bias: bool = False
    """`repair`, `replace`: rows from the source also get its output bias, which says how frequent tokens are."""
    input_only: bool = False
    """Change what the target reads and not what it writes: its output matrix becomes a tensor of its own, which keeps
    its values. The checkpoint grows by three embedding matrices, since transformers ties all of them or none."""

    @property
    def required_inputs(self) -> tuple[str, ...]:
        """What it cannot do without: of source_before, source_after and text."""
        both = ("source_before", "source_after", "text")
        return {"recentre": (), "delta": both}.get(self.mode, ("source_after",))

    @property
    def random(self) -> bool:
        """Whether the result depends on the seed."""
        return self.control != "none"

    @model_validator(mode="after")
    def _changes_something(self) -> Embeddings:
        if self.mode == "recentre" and self.control != "none":
            raise ValueError(
                f"control: {self.control} stands in for what comes from the source, and mode: recentre takes nothing "
                "from it: leave `control` out, or use mode: repair"
            )
        if self.final_logits_bias and self.mode not in ("repair", "replace"):
            raise ValueError(
                f"final_logits_bias goes with rows that come from the source, and mode: {self.mode} has none: leave it "
                "out, or use mode: repair"
            )
        if self.final_logits_bias and (self.random or self.input_only):
            other = f"control: {self.control}" if self.random else "input_only"
            why = "leaves out what the source knows" if self.random else "leaves the output as it is"
            raise ValueError(f"{other} {why}, and final_logits_bias is the source's output: leave one of the two out")
        return self


class NoTransfer(Settings):
    """No transfer: the target as it is, as a control in which the source plays no part."""

    method: Literal["none"] = "none"
    """The transfer method."""

    required_inputs: ClassVar[tuple[str, ...]] = ()

    @property
    def random(self) -> bool:
        """Whether the result depends on the seed."""
        return False


class HiddenStates(Settings):
    """What the methods on hidden states share."""

    control: Literal["none", "random", "permuted"] = "none"
    """A placebo at the same cost. `random`: noise of the same size in place of what was learned. `permuted`: what was
    learned, given to the wrong tokens. See docs/methods.md, Controls."""
    rows: Literal["repair", "recentre", "keep"] = "repair"
    """What becomes of rows that the target never learned, before anything else: see method `embeddings`."""
    calibration_tokens: PositiveInt = 100_000
    """Tokens of the text on which the maps are fitted; a tenth of the documents is held out."""

    required_inputs: ClassVar[tuple[str, ...]] = ("source_before", "source_after", "text")

    @property
    def random(self) -> bool:
        """Whether the result depends on the seed."""
        return self.control != "none"


class BottleneckTransfer(HiddenStates):
    """Transfer of an adapter, bottlenecks or LoRA, that was trained in the source (see docs/methods.md)."""

    method: Literal["bottleneck"] = "bottleneck"
    """The transfer method."""
    ridge_lambda: NonNegativeFloat = 0.1
    """Regularisation of the maps between the hidden states, relative to their mean variance."""


class Encoder(HiddenStates):
    """Transfer of the source's whole encoder, put before the target's decoder (see docs/methods.md)."""

    method: Literal["encoder"] = "encoder"
    """The transfer method."""
    ridge_lambda: NonNegativeFloat = 1e-3
    """Regularisation of the bridge between the hidden states, relative to their mean variance."""

    required_inputs: ClassVar[tuple[str, ...]] = ("source_after", "text")


class WarmUp(Denoising):
    """Denoising that trains the bridge and the cross-attention of a graft alone, before everything is unfrozen."""

    trainable: Literal["bridge"] = "bridge"
    """What reads the encoder; the encoder itself and the rest of the decoder stay as they are."""
    learning_rate: PositiveFloat = 5e-4
    """Peak learning rate of AdamW; ten times that at which everything is trained afterwards."""


class Distill(HiddenStates, Training):
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
    trim_vocabulary: Literal[False] = False
    """The vocabulary takes no part in this."""
    trainable: Literal["all"] = "all"
    """The layers of the encoder, all of them; `adapter` trains one of these instead."""

    @property
    def random(self) -> bool:
        """Whether the result depends on the seed."""
        return True


class SharedMap(Denoising):
    """Transfer through one map from the source's rows to the target's, trained by the target's denoising task."""

    method: Literal["map"] = "map"
    """The transfer method."""
    trainable: Literal["embeddings"] = "embeddings"
    """Of the embeddings the map, and nothing else."""
    adapter: None = None
    """The map is all that is trained."""
    learning_rate: PositiveFloat = 1e-3
    """Peak learning rate of AdamW."""
    weight_decay: NonNegativeFloat = 0.0
    """AdamW's weight decay, of the map's change: any draws it back to the fitted map."""
    ridge_lambda: NonNegativeFloat = 0.1
    """Regularisation of the map that training starts from: see method `embeddings`."""
    norm_scale: PositiveFloat | None = None
    """Distance of the new rows from the mean, before training: see method `embeddings`."""
    trim_vocabulary: Literal[False] = False
    """All rows move, also those of tokens that the text lacks."""

    required_inputs: ClassVar[tuple[str, ...]] = ("source_after", "text")

    @property
    def random(self) -> bool:
        """Whether the result depends on the seed."""
        return True


DEFAULT_METHOD = "embeddings"
Transfer = Embeddings | BottleneckTransfer | Encoder | Distill | SharedMap | NoTransfer


def depends_on_seed(settings: Transfer, text: TextData | None) -> bool:
    """Whether another seed gives another result: by what is drawn, or by which rows of the text are held out."""
    return settings.random or (text is not None and text.validation_file is None)


def name_of(settings: Transfer) -> str:
    """What a transfer is called in messages: its mode, where its method has several, or its method."""
    return f"mode {settings.mode}" if isinstance(settings, Embeddings) else f"method {settings.method}"
