"""A model's rows: the matrix that it reads tokens with, and what it writes them with."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from polygraft.errors import TransferError


def embedding_matrix(model: Any) -> Tensor:
    """Return a model's input embeddings, (rows, width), without a gradient; the tensor itself, not a copy."""
    return model.get_input_embeddings().weight.detach()


def embedding_scale(target: Any) -> float:
    """Return what an mBART multiplies an embedding by before it reads it."""
    config = target.config
    return float(config.d_model) ** 0.5 if getattr(config, "scale_embedding", False) else 1.0


def is_untied(model: nn.Module) -> bool:
    """Whether a model's output matrix is another tensor than its input matrix."""
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()  # type: ignore[operator]
    return outputs is not None and outputs.weight is not inputs.weight


def assert_tied(target: nn.Module) -> None:
    """Raise TransferError for a target that reads other rows than it writes with."""
    if is_untied(target):
        raise TransferError(
            "the target's input and output embeddings are two tensors; only tied ones can be changed. Transfer into a "
            "model that ties them."
        )


def output_bias(model: Any) -> Any:
    """Return what is added to the logits, [V], the tensor itself: a buffer in mBART, a parameter in XLM-R and BERT.

    None for a model that has none.
    """
    buffer = getattr(model, "final_logits_bias", None)
    return buffer[0] if buffer is not None else model.get_output_embeddings().bias
