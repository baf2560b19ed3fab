"""An mBART whose output matrix is a tensor of its own, apart from the rows that its encoder and decoder read.

transformers 5 ties all embedding matrices of an mBART or none (`tie_word_embeddings`). So such a checkpoint holds four
matrices, those of encoder and decoder and `shared`, which nothing reads, with the same values. Loaded here, these three
are one tensor again: training moves them together, and needs no memory for three.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

OUTPUT, INPUT = "lm_head.weight", "model.shared.weight"
READERS = ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight")


def is_untied(model: nn.Module) -> bool:
    """Whether a model's output matrix is another tensor than its input matrix."""
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()  # type: ignore[operator]
    return outputs is not None and outputs.weight is not inputs.weight


def untie_output(model: Any) -> None:
    """Give an mBART an output matrix of its own, in place, with the values of the one that it shared."""
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    model.config.tie_word_embeddings = False
    _name_ties(model)


def share_inputs(model: Any) -> None:
    """Make the three equal input matrices of an untied mBART one tensor, in place; any other model stays as it is."""
    names = dict(model.named_parameters(remove_duplicate=False))
    if not {OUTPUT, INPUT, *READERS} <= set(names) or not is_untied(model):
        return
    if names[INPUT].is_meta or all(torch.equal(names[name], names[INPUT]) for name in READERS):
        for side in (model.model.encoder, model.model.decoder):
            side.embed_tokens.weight = model.model.shared.weight
        _name_ties(model)


def _name_ties(model: Any) -> None:
    """Tell transformers, which saves the checkpoints of an interrupted training, what is still one tensor."""
    model.all_tied_weights_keys = dict.fromkeys(READERS, INPUT)


def whole_state(model: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state_dict as it is saved: of an untied mBART with a copy of the input matrix for each of its names."""
    if INPUT in state and is_untied(model):
        return state | {name: state[INPUT].clone() for name in READERS if state[name] is not state[INPUT]}
    return state
