"""Smaller vocabularies: keep the rows that a text needs, train, and write them back into the full checkpoint.

Three quarters of XLM-R-base are rows of its 250,002 tokens, and a text in a few languages uses a few per cent of them.
Pieces that a text does not use can be taken away without changing how it is split: the best segmentation is still
there, and all others lose. What does change is the loss: a softmax over fewer classes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from polygraft.errors import CheckpointError
from polygraft.models import bottleneck
from polygraft.models.graft import is_graft
from polygraft.models.tokenizers import keep_ids, unigram_content
from polygraft.models.vocabulary import token_counts

TRAINING_COPIES = 4  # fp32 values per weight while training: itself, its gradient, and Adam's two moments


def needed_ids(tokenizer: Any, texts: Iterable[str]) -> np.ndarray:
    """Return the ids that a trimmed vocabulary keeps, int64, ascending.

    All tokens of `texts`, all special and added tokens, language codes among them, every piece of one character (so
    that no text loses a character to <unk>), and the piece of the lowest score, by which Unigram scores <unk>.
    """
    pieces = unigram_content(tokenizer)["model"]["vocab"]
    characters = [i for i, (piece, _) in enumerate(pieces) if len(piece) == 1]
    lowest = min(range(len(pieces)), key=lambda i: pieces[i][1])
    specials = [*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder]
    used = np.flatnonzero(token_counts(tokenizer, texts))
    return np.unique(np.concatenate([used, np.array([*specials, *characters, lowest], dtype=np.int64)]))


def trim(model: PreTrainedModel, tokenizer: Any, texts: Iterable[str]) -> Any:
    """Reduce a model, in place, to the rows that `texts` need; return the tokenizer that goes with it.

    The result is a plain Hugging Face model: its logits are the full model's at the kept ids.

    Raises:
        CheckpointError: the tokenizer is not a Unigram one, or the model a graft.
    """
    if is_graft(model):
        raise CheckpointError(
            "the vocabulary of a grafted encoder and decoder cannot be trimmed: there is no output bias for the tokens "
            "that are left out. Leave trim_vocabulary out."
        )
    kept = needed_ids(tokenizer, texts)
    trimmed = keep_ids(tokenizer, kept)
    rows = torch.from_numpy(kept)
    replaced: dict[int, nn.Parameter | Tensor] = {}
    for name, dim in vocabulary_dims(model).items():
        path, _, leaf = name.rpartition(".")
        module, old = model.get_submodule(path), model.get_parameter_or_buffer(name)
        if old.data_ptr() not in replaced:  # what was tied stays tied
            new = old.detach().index_select(dim, rows.to(old.device))
            replaced[old.data_ptr()] = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
        setattr(module, leaf, replaced[old.data_ptr()])
        if isinstance(module, nn.Embedding):
            module.num_embeddings = len(kept)
        elif isinstance(module, nn.Linear):
            module.out_features = len(kept)
    model.config.vocab_size = len(kept)
    new_ids = {int(old): new for new, old in enumerate(kept)}
    for config in (model.config, getattr(model, "generation_config", None)):
        _renumber(config, new_ids)
    return trimmed


def _renumber(config: Any, new_ids: dict[int, int]) -> None:
    """Give the token ids in a configuration (pad_token_id, forced_bos_token_id, …) their new numbers."""
    for key, value in vars(config).items() if config is not None else ():
        if key.endswith("_token_id") and isinstance(value, int):
            setattr(config, key, new_ids.get(value))


def vocabulary_dims(model: PreTrainedModel) -> dict[str, int]:
    """Name the tensors that have one entry per token, and the dimension in which.

    Found by making the same model with one more token, without memory, and comparing the shapes: no name is assumed.
    """
    shapes = []
    for more in (0, 1):
        config = copy.deepcopy(model.config)
        config.vocab_size += more
        with torch.device("meta"):
            shapes.append({name: tensor.shape for name, tensor in type(model)(config).state_dict().items()})
    dims = {}
    for name, shape in shapes[0].items():
        differing = [d for d, (one, other) in enumerate(zip(shape, shapes[1][name], strict=True)) if one != other]
        if differing:
            dims[name] = differing[0]
    return dims


@torch.no_grad()
def restore(
    trimmed: PreTrainedModel, trimmed_tokenizer: Any, full: PreTrainedModel, full_tokenizer: Any
) -> PreTrainedModel:
    """Write everything that a trimmed model has learned into the full one it came from, in place; returns that.

    Rows are matched by token; those that the trimmed model lacks keep their values, bit by bit. Bottleneck adapters
    that the full one lacks are attached to it.

    Raises:
        CheckpointError: the two are not of one architecture, or the trimmed model has tokens that the full one lacks.
    """
    kept = torch.from_numpy(full_ids(trimmed_tokenizer, full_tokenizer))
    dims = vocabulary_dims(full)
    bottleneck.carry(trimmed, full)
    ours, theirs = full.state_dict(), trimmed.state_dict()
    if set(ours) != set(theirs):
        odd = sorted(set(ours) ^ set(theirs))
        raise CheckpointError(f"the trimmed model did not come from this one: {odd[0]} is in only one of them.")
    for name, tensor in ours.items():
        learned = theirs[name].to(tensor)
        expected = [len(kept) if dims.get(name) == d else size for d, size in enumerate(tensor.shape)]
        if list(learned.shape) != expected:
            raise CheckpointError(
                f"the trimmed model did not come from this one: {name} has shape {tuple(learned.shape)}, but "
                f"{tuple(expected)} was expected."
            )
        if name in dims:
            tensor.index_copy_(dims[name], kept.to(tensor.device), learned)
        else:
            tensor.copy_(learned)
    return full


def full_ids(trimmed_tokenizer: Any, full_tokenizer: Any) -> np.ndarray:
    """Return the full id of each trimmed id, int64."""
    vocabulary = full_tokenizer.get_vocab()
    tokens = trimmed_tokenizer.convert_ids_to_tokens(range(len(trimmed_tokenizer)))
    unknown = [token for token in tokens if token not in vocabulary]
    if unknown:
        raise CheckpointError(
            f"{len(unknown)} tokens of the trimmed vocabulary are not in the full one, such as '{unknown[0]}'. "
            "Restore into the checkpoint that was trimmed; languages have to be added before trimming."
        )
    return np.array([vocabulary[token] for token in tokens], dtype=np.int64)


def sizes(model: PreTrainedModel) -> dict[str, int]:
    """Return rows, parameters, bytes of the weights, and bytes of weights and optimizer in fp32 training."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    rows = model.config.vocab_size
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    return {
        "rows": rows, "parameters": parameters, "weight_bytes": weights,
        "training_bytes": TRAINING_COPIES * 4 * parameters,
    }  # fmt: skip
