"""Training tasks on plain text: the settings of each, and the table of them. What they do is in a file each.

A task is a file in this folder with a class that offers what `task.Objective` asks for, and a class of settings here,
which makes it and stands in OBJECTIVES. Recipes, `polygraft adapt` and its help, `check` and the report read these.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from polygraft.objectives.task import BatchShape, Objective
from polygraft.settings import Training

if TYPE_CHECKING:  # what reads settings does without torch
    from polygraft.objectives.noise import Noise


class TextTask(Training):
    """Continued pretraining on plain text."""

    objective: str
    """The training task."""
    max_length_tokens: PositiveInt = 256
    """Longer documents are cut into pieces of at most this length, special tokens included."""

    title: ClassVar[str]
    """What the task is called in the report."""
    unit: ClassVar[str] = "cross-entropy over all tokens (nats)"
    """What its loss is there."""
    only_target: ClassVar[bool] = True
    """Whether it needs a decoder."""

    @abstractmethod
    def make(self, tokenizer: Any, noise: Noise, coded: bool) -> Objective:
        """Return the task, for a source or (`coded`, since these have language codes) for a target."""

    @abstractmethod
    def shape(self, batch: int, tokens: int, coded: bool) -> BatchShape:
        """Return the shape of a batch of documents of so many tokens each, special tokens included."""

    def loss_of(self, coded: bool) -> Callable[..., Any]:
        """Return the loss that training minimises, a function as `Objective.loss` is."""
        from polygraft.objectives.seq2seq import summed_loss

        return summed_loss

    def idle(self, model: Any) -> list[Any]:
        """Return the parts of a model that take no part in the loss, and so are not trained."""
        return []


class MLM(TextTask):
    """Masked language modelling, of the source or of the target's encoder under its tied matrix."""

    objective: Literal["mlm"] = "mlm"
    """The training task."""
    mlm_probability: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.15
    """Share of real tokens chosen for prediction: 80% become <mask>, 10% another token, 10% stay (BERT)."""

    title: ClassVar[str] = "masked language modelling"
    unit: ClassVar[str] = "cross-entropy over masked tokens (nats)"
    only_target: ClassVar[bool] = False

    def make(self, tokenizer: Any, noise: Noise, coded: bool) -> Objective:
        return self._task(coded)(tokenizer, self.mlm_probability, noise)

    def shape(self, batch: int, tokens: int, coded: bool) -> BatchShape:
        return BatchShape(batch, tokens, None, max(1, round(self.mlm_probability * batch * tokens)))

    def loss_of(self, coded: bool) -> Callable[..., Any]:
        return self._task(coded).loss

    def _task(self, coded: bool) -> Any:
        from polygraft.objectives.mlm import EncoderMaskedLM, MaskedLM

        return EncoderMaskedLM if coded else MaskedLM

    def idle(self, model: Any) -> list[Any]:
        """Of an mBART, all of the decoder but the matrix that it shares with the encoder."""
        return [model.get_decoder()] if model.config.is_encoder_decoder else []


class Denoising(TextTask):
    """mBART's denoising task: sentences shuffled, spans replaced by one <mask> each, the original to be restored."""

    objective: Literal["denoising"] = "denoising"
    """The training task."""
    mask_ratio: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.35
    """Share of tokens removed by span infilling (mBART: 0.35)."""
    poisson_lambda: PositiveFloat = 3.5
    """Mean length, in tokens, of the removed spans; each span becomes one <mask>."""
    permute_sentences: bool = True
    """Whether the sentences of a document are shuffled in the input."""

    title: ClassVar[str] = "denoising"

    def make(self, tokenizer: Any, noise: Noise, coded: bool = True) -> Objective:
        from polygraft.objectives.denoising import SpanDenoising

        return SpanDenoising(
            tokenizer,
            mask_ratio=self.mask_ratio,
            poisson_lambda=self.poisson_lambda,
            permute_sentences=self.permute_sentences,
            noise=noise,
        )

    def shape(self, batch: int, tokens: int, coded: bool) -> BatchShape:
        return BatchShape(batch, tokens, tokens, batch * tokens)


class WarmUp(Denoising):
    """Denoising that trains the bridge and the cross-attention of a graft alone, before everything is unfrozen."""

    trainable: Literal["bridge"] = "bridge"
    """What reads the encoder; the encoder itself and the rest of the decoder stay as they are."""
    learning_rate: PositiveFloat = 5e-4
    """Peak learning rate of AdamW; ten times that at which everything is trained afterwards."""


class CLM(TextTask):
    """Causal language modelling by the target's decoder, whose encoder reads an empty text."""

    objective: Literal["clm"] = "clm"
    """The training task."""

    title: ClassVar[str] = "causal language modelling"

    def make(self, tokenizer: Any, noise: Noise, coded: bool = True) -> Objective:
        from polygraft.objectives.clm import CausalLM

        return CausalLM(tokenizer)

    def shape(self, batch: int, tokens: int, coded: bool) -> BatchShape:
        return BatchShape(batch, 2, tokens, batch * tokens)


DEFAULT_OBJECTIVE = "denoising"
OBJECTIVES: dict[str, type[TextTask]] = {"denoising": Denoising, "mlm": MLM, "clm": CLM}
