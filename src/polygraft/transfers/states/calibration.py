"""Linear maps between the hidden states of two encoders, and which layer matches which, measured on aligned text.

Everything is streamed: batches go through both encoders without gradients, and only moments stay, O(d^2) per map and
never the states. A tenth of the documents is held out, in the same pass.

Legend: B documents, T positions, N aligned tokens, D width, L layers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel
from transformers.models.mbart.modeling_mbart import MBartEncoder

from polygraft.errors import TransferError
from polygraft.models.checkpoints import max_positions
from polygraft.transfers.contract import Inputs
from polygraft.transfers.controls import cycle
from polygraft.transfers.linear_map import HELDOUT_EVERY, LinearMap, Moments
from polygraft.transfers.methods import CKA_BATCHES, CKA_TOKENS
from polygraft.transfers.states.alignment import Aligned, Batch, align, batches

POST_LN_TYPES = ("xlm-roberta", "roberta", "camembert", "bert")  # each layer ends in a LayerNorm
MAX_LENGTH = 256  # tokens of a document that are read
BATCH_TOKENS = 2048


class Site(NamedTuple):
    """A place in an encoder: what `layer` hands on (0: the embeddings), [B, T, D].

    `normed`: as the next block's first LayerNorm passes it on, or after the last layer the encoder's final one. Layers
    of XLM-R and BERT end in a LayerNorm, so that both are the same there; mBART's raw residual is never read by itself.
    """

    side: Literal["source", "target"]
    layer: int
    normed: bool = True


class Read(NamedTuple):
    """What a submodule of an encoder reads, [B, T, D]."""

    side: Literal["source", "target"]
    module: str


class Change(NamedTuple):
    """What adaptation changes of what a source layer (from 1) hands on, given what it read before, [B, T, D]."""

    layer: int
    side: Literal["source", "target"] = "source"


State = Site | Read | Change


class Shuffled(NamedTuple):
    """What is at `place` for another token of the batch: real states that have nothing to do with the token."""

    place: State


Place = State | Shuffled
Pair = tuple[Place, Place]  # mapped from, mapped to


@dataclass(frozen=True)
class Fitted:
    """A map, and the share of variance that it explains on the tokens that it was not fitted on.

    `variance` is that of what was mapped to, on the tokens fitted on: mean squared distance from the mean.
    """

    map: LinearMap
    heldout_r2: float
    variance: float
    fit_tokens: int
    heldout_tokens: int

    @classmethod
    def of(cls, fitted_on: Moments, held_out: Moments, ridge: float) -> Fitted:
        """Fit a ridge map; see `Moments.solve`."""
        found = fitted_on.solve(ridge)
        counts = int(fitted_on.total), int(held_out.total)
        return cls(found, held_out.r_squared(found), fitted_on.variance, *counts)


@dataclass
class Calibration:
    """Both encoders and the aligned documents that they read; `held_out` are not fitted on.

    `after` is the source's encoder as adapted, for a `Change`; `seed` is that of `Shuffled` places; `flops` were spent
    on the encoders' passes; `known` are the maps that were fitted.
    """

    source: PreTrainedModel
    target: PreTrainedModel
    documents: list[Aligned]
    held_out: list[Aligned]
    seed: int = 0
    flops: float = 0.0
    after: PreTrainedModel | None = None
    known: dict[tuple[Pair, float], Fitted] = field(default_factory=dict)

    @classmethod
    def of(cls, inputs: Inputs, source_model: Any, tokens: int, grafted: bool = False) -> Calibration:
        """Align up to `tokens` tokens of the inputs' texts, for a source model and the inputs' target; see `align`.

        Raises:
            TransferError: too few tokens in common, or an encoder of another build than XLM-R's, BERT's and mBART's.
            DataError: a language that the target does not have.
        """
        source, target = source_model.base_model, inputs.target.get_encoder()
        depth(source), depth(target)
        length = min(MAX_LENGTH, max_positions(source), max_positions(target))
        tokenizers = inputs.source_tokenizer, inputs.target_tokenizer
        documents = align(*tokenizers, inputs.texts, inputs.languages, length, tokens, grafted=grafted)
        found = sum(len(document.source_places) for document in documents)
        least = max(source.config.hidden_size, target.config.hidden_size)
        held_out = [document for document in documents if not document.number % HELDOUT_EVERY]
        fitted_on = [document for document in documents if document.number % HELDOUT_EVERY]
        if found < least or not fitted_on or not held_out:
            count = len({document.number for document in documents})
            raise TransferError(
                f"the text has only {found} tokens, in {count} documents, that both tokenizers split alike, but the "
                f"models are up to {least} wide: at least as many tokens, in two documents, are needed to fit a map "
                "between them. Give more text, or use method: embeddings."
            )
        return cls(source, target, fitted_on, held_out, inputs.seed)

    def fit(self, pairs: Sequence[Pair], ridge: float) -> dict[Pair, Fitted]:
        """Fit a ridge map for every pair in one pass over the documents, none twice; see `Moments.solve`."""
        new = [pair for pair in pairs if (pair, ridge) not in self.known]
        if new:
            fitted_on, held_out = self.moments(self.documents, new), self.moments(self.held_out, new)
            self.known |= {(pair, ridge): Fitted.of(fitted_on[pair], held_out[pair], ridge) for pair in new}
        return {pair: self.known[pair, ridge] for pair in pairs}

    def moments(self, documents: Sequence[Aligned], pairs: Sequence[Pair]) -> dict[Pair, Moments]:
        """Add up the moments of every pair over the aligned tokens of `documents`."""
        places = {place for pair in pairs for place in pair}
        found: dict[Pair, Moments] = {}
        for at in self.stream(documents, places):
            for x, y in pairs:
                if (x, y) not in found:
                    found[x, y] = Moments(at[x].shape[1], at[y].shape[1])
                found[x, y].add(at[x], at[y])
        return found

    def stream(self, documents: Sequence[Aligned], places: Collection[Place]) -> Iterator[dict[Place, Tensor]]:
        """Yield what is at each place, [N, D] on the CPU, for batches of the documents, which together are all of them.

        All `Shuffled` places of a batch are shuffled alike, and at every call as at the first.
        """
        shuffled = [place for place in places if isinstance(place, Shuffled)]
        sites = {place.place if isinstance(place, Shuffled) else place for place in places}
        generator = torch.Generator().manual_seed(self.seed)
        for batch in self._batches(documents, BATCH_TOKENS):
            found = self.read(batch, sites)
            if shuffled:
                order_N = cycle(len(batch.source_places), generator)
                found |= {place: found[place.place][order_N] for place in shuffled}
            yield found

    @torch.inference_mode()
    def read(self, batch: Batch, sites: Iterable[State]) -> dict[Place, Tensor]:
        """Return the states of the aligned tokens at each site, [N, D] on the CPU."""
        found: dict[Place, Tensor] = {}
        counter = FlopCounterMode(display=False)
        for side, encoder, ids, mask, places in (
            ("source", self.source, batch.source_ids, batch.source_mask, batch.source_places),
            ("target", self.target, batch.target_ids, batch.target_mask, batch.target_places),
        ):
            wanted = [site for site in sites if site.side == side]
            if wanted:
                device = next(encoder.parameters()).device
                with counter:
                    at = states(encoder.eval(), ids.to(device), mask.to(device), wanted, self.after)
                self.flops += counter.get_total_flops()
                found |= {site: at[site].flatten(0, 1).cpu()[places] for site in wanted}
        return found

    def cka(self) -> np.ndarray:
        """Return the linear CKA of all pairs of layers, float64 [L_source + 1, L_target + 1]; row 0: the embeddings.

        Memory is that of the two encoders' Gram matrices over 512 tokens at a time, not D^2 for each of the pairs. The
        unbiased HSIC of each minibatch is averaged (Nguyen et al. 2021, Do wide and deep networks learn the same
        things?, equation 3; HSIC of Song et al. 2012, equation 5): its mean does not depend on the batch's size.
        """
        sides = {"source": depth(self.source), "target": depth(self.target)}
        sites = {
            side: [Site(side, layer) for layer in range(layers + 1)]  # type: ignore[arg-type]
            for side, layers in sides.items()
        }
        hsic = {key: torch.zeros(()) for key in ("source", "target", "both")}
        for batch in self._cka_batches():
            at = self.read(batch, [*sites["source"], *sites["target"]])
            rows = torch.linspace(0, len(batch.source_places) - 1, min(CKA_TOKENS, len(batch.source_places))).long()
            a, b = (torch.stack([_centred_gram(at[site][rows]) for site in sites[side]]) for side in sites)
            hsic["source"] = hsic["source"] + a.square().sum(1)
            hsic["target"] = hsic["target"] + b.square().sum(1)
            hsic["both"] = hsic["both"] + a @ b.T
        scale = (hsic["source"][:, None] * hsic["target"]).sqrt()
        return (hsic["both"] / scale).numpy()

    def _batches(self, documents: Sequence[Aligned], tokens: int) -> Iterator[Batch]:
        return batches(documents, self.source.config.pad_token_id, self.target.config.pad_token_id, tokens)

    def _cka_batches(self) -> list[Batch]:
        """Up to 16 batches of whole documents in random order, of about 512 aligned tokens each."""
        found: list[list[Aligned]] = [[]]
        for document in self.documents:
            if sum(len(d.source_places) for d in found[-1]) >= CKA_TOKENS:
                if len(found) == CKA_BATCHES:
                    break
                found.append([])
            found[-1].append(document)
        if len(found) > 1 and sum(len(d.source_places) for d in found[-1]) < CKA_TOKENS:
            del found[-1]
        return [batch for group in found for batch in self._batches(group, 10**9)]


def _centred_gram(rows_ND: Tensor) -> Tensor:
    """Return the U-centred Gram matrix of rows, flattened [N^2], float64, so that products are unbiased HSICs.

    With zero diagonal and U-centring (Székely and Rizzo 2014, equation 2.4), <A, B> / (N (N - 3)) is HSIC of Song et
    al.; the factor is divided out here.
    """
    rows_ND = rows_ND.double() - rows_ND.double().mean(0)
    gram_NN = rows_ND @ rows_ND.T
    count = len(gram_NN)
    off_diagonal = 1 - torch.eye(count, dtype=torch.float64)
    gram_NN = gram_NN * off_diagonal
    sums_N = gram_NN.sum(0) / (count - 2)
    total = gram_NN.sum() / ((count - 1) * (count - 2))
    centred_NN = (gram_NN - sums_N - sums_N[:, None] + total) * off_diagonal
    return centred_NN.flatten() / (count * (count - 3)) ** 0.5


def match_layers(similarity: np.ndarray) -> list[int]:
    """Return phi: for each target layer its source layer, never decreasing, of the highest summed similarity.

    Args:
        similarity: of `Calibration.cka`, [L_source + 1, L_target + 1].

    Returns:
        phi[l] for l = 0 … L_target; embeddings match embeddings, phi[0] = 0, and layers match layers, so that
        phi[l] >= 1 from l = 1 on.
    """
    scores = similarity[1:, 1:]
    best = np.zeros_like(scores)  # best[k, l]: of layers up to l, with phi[l] = k
    came = np.zeros(scores.shape, dtype=np.int64)
    best[:, 0] = scores[:, 0]
    for layer in range(1, scores.shape[1]):
        for k in range(len(scores)):
            came[k, layer] = int(np.argmax(best[: k + 1, layer - 1]))
            best[k, layer] = scores[k, layer] + best[came[k, layer], layer - 1]
    phi = [int(np.argmax(best[:, -1]))]
    for layer in range(scores.shape[1] - 1, 0, -1):
        phi.append(int(came[phi[-1], layer]))
    return [0, *(k + 1 for k in reversed(phi))]


def depth(encoder: Any) -> int:
    """Return the number of layers of an encoder.

    Raises:
        TransferError: not an encoder whose sites are known.
    """
    return len(_blocks(encoder)[0])


def _blocks(encoder: Any) -> tuple[Any, list[Any]]:
    """Return an encoder's layers, and for 0 … L the LayerNorm that reads what the layer before it handed on."""
    if isinstance(encoder, MBartEncoder):
        return encoder.layers, [*(layer.self_attn_layer_norm for layer in encoder.layers), encoder.layer_norm]
    if encoder.config.model_type in POST_LN_TYPES:
        layers = encoder.encoder.layer
        return layers, [nn.Identity()] * (len(layers) + 1)
    raise TransferError(
        f"the layers of a '{encoder.config.model_type}' encoder are not known; hidden states can be compared between "
        f"{', '.join(POST_LN_TYPES)} and mbart. Use method: embeddings."
    )


def states(
    encoder: Any, input_ids: Tensor, mask: Tensor, sites: Iterable[State], after: Any = None
) -> dict[State, Tensor]:
    """Run an encoder, and return what is at each site of it, [B, T, D]; with gradients unless they are switched off.

    `after`: the encoder as adapted, whose layers a `Change` compares.
    """
    found: dict[State, Tensor] = {}
    sites = list(sites)
    between = [site for site in sites if isinstance(site, Site)]
    layers, norms = _blocks(encoder)
    raw: dict[int, Tensor] = {}

    def keep(layer: int, value: Any) -> None:
        raw[layer] = _first(value)

    def keep_change(site: Change, args: Any, kwargs: Any, out: Any) -> None:
        changed = _blocks(after)[0][site.layer - 1].eval()(*args, **kwargs)
        found[site] = _first(changed) - _first(out)

    hooks = [
        encoder.get_submodule(site.module).register_forward_pre_hook(
            lambda _, given, at=site: found.update({at: given[0]})
        )
        for site in sites
        if isinstance(site, Read)
    ]
    hooks += [
        layers[site.layer - 1].register_forward_hook(
            lambda _, args, kwargs, out, at=site: keep_change(at, args, kwargs, out), with_kwargs=True
        )
        for site in sites
        if isinstance(site, Change)
    ]
    for layer in {site.layer for site in between}:
        if layer == 0:
            hooks.append(layers[0].register_forward_pre_hook(lambda _, given: keep(0, given)))
        else:
            hooks.append(layers[layer - 1].register_forward_hook(lambda _, __, out, at=layer: keep(at, out)))
    try:
        encoder(input_ids=input_ids, attention_mask=mask)
    finally:
        for hook in hooks:
            hook.remove()
    return found | {site: norms[site.layer](raw[site.layer]) if site.normed else raw[site.layer] for site in between}


def _first(value: Any) -> Tensor:
    return value[0] if isinstance(value, tuple) else value
