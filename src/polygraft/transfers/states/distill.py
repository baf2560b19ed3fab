"""Transfer of the change of hidden states: the target's encoder learns to do what adaptation did to the source's.

    t_l = b_l + (a'_phi(l) - a_phi(l)) P_l          where each state of the target should move to
    minimise  sum_l |b'_l - t_l|^2 / sigma_l^2  +  mu |b'_l - b_l|^2 / sigma_l^2     over the target's encoder

a and a': states of the source's layers before and after adaptation; b and b': of the target's before and now, each as
the next block's LayerNorm reads it; P_l: ridge from a to b on the user's text, phi the layer map of highest CKA;
sigma_l^2: variance of b_l. The second sum runs over general text, which should stay as it is. Only what adaptation
changed moves, so that the decoder still finds what it knows; where nothing changed the loss is zero, and so is its
gradient, exactly.

Controls ask for other changes, each as long as the real one, and the same at every epoch:

    random      t_l = b_l + (a' - a) P_l R_l, R_l a random rotation. Noise for each token by itself could only be
                learned by heart; rotated changes are as smooth a function of the text, as large and as like each other
                as the real ones, and so as easy to learn. Only where they point means nothing to the decoder.
    permuted    each token is asked for the change of another token of its document. The maps are the real ones: maps
                fitted to shuffled pairs, too, would be near zero, and ask for nothing. What all tokens of a document
                share of the change is left; what a gain over this control shows is knowledge of tokens.

B documents, N tokens compared, D width.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polygraft.data.dataset import texts_of
from polygraft.models import adapters, bottleneck
from polygraft.models.checkpoints import max_positions, tied_names
from polygraft.settings import Bottleneck
from polygraft.training.train import train
from polygraft.transfers.contract import Inputs
from polygraft.transfers.controls import PERMUTED, RANDOM, cycle, generator_of, rotation
from polygraft.transfers.linear_map import HELDOUT_EVERY
from polygraft.transfers.plan import Entry, Transform
from polygraft.transfers.rows import mended as rows
from polygraft.transfers.rows.embeddings import RowFit
from polygraft.transfers.rows.mended import StatesChanges, StatesPlan
from polygraft.transfers.states.alignment import Aligned, align, make_batch
from polygraft.transfers.states.calibration import Calibration, Fitted, Site, State, depth, match_layers, states

NAME = "distill"
WHY = {
    "none": "learns to change the states as adaptation changed the source's",
    RANDOM: "control: learns changes as large as those that adaptation made in the source, in random directions",
    PERMUTED: "control: learns the changes that adaptation made in the source, at other tokens of the document",
}
TRAINED = ("model.encoder.layers.", "model.encoder.layer_norm.")  # the rest of the encoder is the decoder's, too


class Trained(Transform):
    """What is learned."""

    TRAIN = "distil"


@dataclass(frozen=True, kw_only=True)
class MapsFit:
    """The fit of the rows; the maps P_l with the variances sigma_l^2, in the order of `pairs`; what they rest on."""

    mend: RowFit | None
    pairs: list[tuple[Site, Site]]
    maps: list[Fitted]
    similarity: np.ndarray
    calibration: Calibration

    @property
    def flops(self) -> float:
        return self.calibration.flops


def plan(inputs: Inputs) -> StatesPlan:
    """Say that the layers of the target's encoder are trained, or new adapters of these; all the rest stays."""
    depth(inputs.target.get_encoder())
    mending = rows.plan(inputs)
    state = inputs.target.state_dict()
    trained = {name for name in state if name.startswith(TRAINED)}
    if isinstance(inputs.settings.adapter, Bottleneck):
        new = f"{bottleneck.ATTRIBUTE}.{bottleneck.new_name(inputs.target, NAME)}"
        parts = ("down.weight", "down.bias", "up.weight")
        trained = {f"{host}.{new}.{part}" for host in encoder_hosts(inputs.target) for part in parts}
    why = WHY[inputs.settings.control]
    kept = [entry for entry in rows.entries(mending, inputs) if entry.tensor not in trained]
    return StatesPlan(
        entries=kept + [
            Entry(tensor=name, origin="target + source", transform=Trained.TRAIN, reason=why)
            for name in sorted(trained)
        ],
        tied=tied_names(inputs.target),
        tensors=dict.fromkeys(trained, torch.empty(0)) | state,
        figures={} if mending is None else mending.figures,
        warnings=[] if mending is None else mending.warnings,
        rows=mending,
    )  # fmt: skip


def encoder_hosts(model: Any) -> list[str]:
    """Name the encoder's layers."""
    return [name for name in bottleneck.hosts(model) if name.startswith(TRAINED)]


def fit(plan: StatesPlan, inputs: Inputs) -> MapsFit:
    """Match the layers by CKA and fit the maps, from the source as it was before adaptation.

    Raises:
        TransferError: too little text.
    """
    settings = inputs.settings
    calibration = Calibration.of(inputs, inputs.source_before, settings.calibration_tokens)
    mend = rows.fit(plan.rows, inputs)
    with rows.mended(plan.rows, mend, inputs):
        similarity = calibration.cka()
        phi = match_layers(similarity)
        pairs = [(Site("source", phi[layer]), Site("target", layer)) for layer in range(1, len(phi))]
        found = calibration.fit([*pairs], settings.ridge_lambda)
    maps = [found[pair] for pair in pairs]
    return MapsFit(mend=mend, pairs=pairs, maps=maps, similarity=similarity, calibration=calibration)


def apply(plan: StatesPlan, fitted: MapsFit, inputs: Inputs) -> StatesChanges:
    """Train the target's encoder, in place; goes on from the last checkpoint in `inputs.out_dir`."""
    model, settings = inputs.target, inputs.settings
    mended = rows.apply(plan.rows, fitted.mend, inputs)
    objective = StateChange(inputs, fitted)
    documents = align_all(inputs, inputs.texts, inputs.languages)
    if settings.control == PERMUTED:
        documents = wrong_tokens(documents, inputs)
    moved = [reading(document) for document in documents if document.number % HELDOUT_EVERY]
    held_out = [reading(document) for document in documents if not document.number % HELDOUT_EVERY]
    if settings.general is not None:
        moved += [reading(document, moved=False) for document in align_all(inputs, *texts_of(settings.general))]
    lora = None
    if isinstance(settings.adapter, Bottleneck):
        model.requires_grad_(False)
        sizes = dict.fromkeys(encoder_hosts(model), settings.adapter.bottleneck_size)
        bottleneck.attach(model, settings.adapter, bottleneck.new_name(model, NAME), sizes)
    else:
        lora = adapters.prepare(model, settings.adapter)
        for name, parameter in model.named_parameters():  # LoRA is in the decoder, too, where it learns nothing
            parameter.requires_grad_(parameter.requires_grad and name.startswith(TRAINED))
    trained = train(
        model, inputs.target_tokenizer, settings, objective, objective, (Readings(moved), Readings(held_out)),
        seed=inputs.seed, out_dir=inputs.out_dir, running=inputs.running,
    )  # fmt: skip
    trained |= adapters.finish(model, lora, inputs.out_dir)
    model.requires_grad_(True).eval().cpu()  # where all else is that `diagnose` compares it with
    trained["flops"] += fitted.flops
    return StatesChanges(model, trained, rows=mended)


class Readings:
    """Items of training data with their lengths, (N, 1)."""

    def __init__(self, items: list[dict[str, Any]]) -> None:
        self.items = items
        self.lengths = np.array([[len(item["input_ids"])] for item in items], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.items[index]


def align_all(inputs: Inputs, texts: Collection[str], languages: Collection[str | None]) -> list[Aligned]:
    """Align whole texts, in pieces that both encoders have positions for."""
    length = min(inputs.settings.max_length_tokens, *map(max_positions, (inputs.source_before, inputs.target)))
    tokenizers = inputs.source_tokenizer, inputs.target_tokenizer
    return align(*tokenizers, texts, languages, length, tokens=None)


def wrong_tokens(documents: Sequence[Aligned], inputs: Inputs) -> list[Aligned]:
    """Pair each token of the target's with another one of the source's in the same document, for good."""
    generator = generator_of(inputs)
    return [
        replace(one, source_places=one.source_places[cycle(len(one.source_places), generator).numpy()])
        for one in documents
    ]


def reading(document: Aligned, moved: bool = True) -> dict[str, Any]:
    """An item of training data; `moved`: whether its states should change. Its length is the target's."""
    return {"input_ids": document.target, "document": document, "moved": moved}


class StateChange:
    """The objective: batches that both models read, and how far the target's states are from where they belong."""

    noise = None

    def __init__(self, inputs: Inputs, fitted: MapsFit) -> None:
        before, after = inputs.source_before, inputs.source_after
        self.before, self.after = before.base_model.eval(), after.base_model.eval()
        encoder = inputs.target.get_encoder()
        # Embeddings are not trained, and so are shared; so is the configuration, which says how attention is computed:
        # an unchanged source has a gradient of exactly zero only if old and new states are equal bit by bit.
        shared = (encoder.embed_tokens, encoder.embed_positions, encoder.layernorm_embedding, encoder.config)
        self.reference = copy.deepcopy(encoder, {id(part): part for part in shared}).eval()
        weights, generator = [fitted_map.map.weight for fitted_map in fitted.maps], generator_of(inputs)
        if inputs.settings.control == RANDOM:
            weights = [weight_ab @ rotation(weight_ab.shape[1], generator) for weight_ab in weights]
        self.pairs, self.maps = fitted.pairs, [weight_ab.float() for weight_ab in weights]
        self.variances = [fitted_map.variance for fitted_map in fitted.maps]
        self.anchor_weight = inputs.settings.anchor_weight
        self.pads = before.config.pad_token_id, inputs.target.config.pad_token_id

    def collate(self, items: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Return input_ids, attention_mask [B, T], source_ids, source_mask [M, S] of the first M, those that move.

        `places` and `source_places` are flat positions of the tokens compared, those that move first; `labels` [N] are
        only counted.
        """
        items = sorted(items, key=lambda item: not item["moved"])
        moved = [item["document"] for item in items if item["moved"]]
        batch = make_batch([item["document"] for item in items], *self.pads)
        count = sum(len(document.source_places) for document in moved)
        return {
            "input_ids": batch.target_ids, "attention_mask": batch.target_mask, "places": batch.target_places,
            "source_ids": batch.source_ids[: len(moved)], "source_mask": batch.source_mask[: len(moved)],
            "source_places": batch.source_places[:count], "labels": torch.zeros_like(batch.target_places),
        }  # fmt: skip

    def loss(self, model: Any, **batch: Tensor) -> Tensor:
        """Return the squared distance over all layers, each in units of its variance, summed over tokens (scalar)."""
        model.eval()  # dropout would tell the new states from the old ones
        wanted = self.targets(batch)
        now = self.read(model.get_encoder(), batch)
        weights_N = torch.ones(len(batch["places"]), device=batch["places"].device)
        weights_N[len(batch["source_places"]) :] = self.anchor_weight
        total = weights_N.new_zeros(())
        for (_, site), variance in zip(self.pairs, self.variances, strict=True):
            distance_N = (now[site] - wanted[site]).float().square().sum(1)
            total = total + (weights_N * distance_N).sum() / variance
        return total

    @torch.no_grad()
    def targets(self, batch: dict[str, Tensor]) -> dict[State, Tensor]:
        """Return t_l of the compared tokens, [N, D] each: the old states, those that move by their mapped change."""
        places = batch["source_places"]
        wanted = self.read(self.reference.to(places.device), batch)
        if len(places):
            sites = {site for site, _ in self.pairs}
            before, after = (
                states(encoder.to(places.device), batch["source_ids"], batch["source_mask"], sites)
                for encoder in (self.before, self.after)
            )
            for (site, to), weight in zip(self.pairs, self.maps, strict=True):
                change_ND = (after[site] - before[site]).flatten(0, 1)[places]
                wanted[to][: len(places)] += change_ND @ weight.to(change_ND)
        return wanted

    def read(self, encoder: Any, batch: dict[str, Tensor]) -> dict[State, Tensor]:
        """Return the states of the compared tokens, [N, D] each."""
        sites = [site for _, site in self.pairs]
        found = states(encoder, batch["input_ids"], batch["attention_mask"], sites)
        return {site: found[site].flatten(0, 1)[batch["places"]] for site in sites}

    def eval_sums(self, model: Any, batch: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Return the summed distance and the number of tokens."""
        return {"eval_loss": (self.loss(model, **batch), torch.tensor(len(batch["places"])))}

    @staticmethod
    def tokens(batch: dict[str, Tensor]) -> Tensor:
        """Count the real tokens that the target reads."""
        return batch["attention_mask"].sum()


def diagnose(plan: StatesPlan, fitted: MapsFit, inputs: Inputs, changes: StatesChanges) -> dict[str, float]:
    """Return phi, held-out R^2 and CKA by layer, and the share of the held-out change that was reached."""
    figures: dict[str, float] = {
        "state_map_fit_tokens": fitted.maps[0].fit_tokens, "state_map_heldout_tokens": fitted.maps[0].heldout_tokens,
    }  # fmt: skip
    for (source, target), one in zip(fitted.pairs, fitted.maps, strict=True):
        figures[f"matched_source_layer.{target.layer}"] = source.layer
        figures[f"state_map_heldout_r2.{target.layer}"] = one.heldout_r2
        figures[f"layer_cka.{target.layer}"] = float(fitted.similarity[source.layer, target.layer])
    first, last = changes.trained["eval_loss_first"], changes.trained["eval_loss"]
    figures["change_asked"] = first / len(fitted.pairs)
    figures["change_reached"] = 1 - last / first if first else 1.0
    return figures | rows.diagnose(plan.rows, fitted.mend, inputs, changes.rows)
