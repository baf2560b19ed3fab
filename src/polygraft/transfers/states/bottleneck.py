"""Transfer of an adapter: what was trained beside the source's weights, carried across by linear maps.

Between the hidden states of the two models before adaptation, ridge maps are fitted on the user's text. Through them a
bottleneck adapter becomes one of the target (carry_bottleneck.py), and what LoRA changes of a layer's output is made by
LoRA in the target's layer (carry_lora.py).

Each source layer goes to the first target layer whose match (by CKA, monotone) is not below it. Where several meet, as
with 24 layers into 12, they are put side by side; a target layer that none goes to changes nothing, since a change
stays in the residual and would count twice. Rows that the target never learned are repaired first, as by `embeddings`:
without them there are no states to fit maps to.

N tokens, b width of the target.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers.models.mbart.modeling_mbart import MBartEncoder

from polygraft.errors import TransferError
from polygraft.models import adapters, bottleneck
from polygraft.models.bottleneck import Adapter
from polygraft.models.checkpoints import tied_names
from polygraft.transfers.contract import Inputs
from polygraft.transfers.controls import PERMUTED, RANDOM
from polygraft.transfers.plan import Entry, Transform
from polygraft.transfers.rows import mended as rows
from polygraft.transfers.rows.embeddings import RowFit
from polygraft.transfers.rows.mended import StatesChanges, StatesPlan
from polygraft.transfers.states import carry_bottleneck, carry_lora
from polygraft.transfers.states.alignment import Aligned
from polygraft.transfers.states.calibration import Calibration, Pair, Site, depth, match_layers


class CarryTransform(Transform):
    """How adapters reach the target."""

    DRAW = "draw"
    CARRY = "carry across"
    CARRY_OTHERS = "carry across by wrong tokens"


ENCODER = "model.encoder"
WRITTEN = {  # control -> transform, what stands before the origin, reason
    "none": (CarryTransform.CARRY, "", "what adaptation trained in the source, mapped"),
    RANDOM: (
        CarryTransform.DRAW,
        "noise as large as ",
        "control: noise that changes the states by as much as what adaptation trained in the source",
    ),
    PERMUTED: (
        CarryTransform.CARRY_OTHERS,
        "",
        "control: what adaptation trained in the source, by maps between different tokens, scaled to the real size",
    ),
}
LAYER_MAP = "layer_map"
DIAGNOSED_TOKENS = 2048
UNLIKE = 0.1  # a cosine below this is that of unrelated changes

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class End:
    """The target's last states at held-out tokens, [N, b]: as they were, and the change that they should have."""

    documents: list[Aligned]
    before: Tensor
    wanted: Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class BottleneckPlan(StatesPlan):
    """What planning has to read and fit already, since matching the layers says what is written.

    Attributes:
        mend: the fit of the rows.
        calibration: the aligned text.
        groups: the source layers that go to each target layer.
        adapters: the source's bottlenecks by name, one per layer; else
        rank: that of its LoRA.
    """

    mend: RowFit | None
    calibration: Calibration
    groups: dict[int, list[int]]
    adapters: dict[str, list[Adapter]]
    rank: int


@dataclass(frozen=True, kw_only=True)
class CarriedFit:
    """What `apply` writes: adapters by name and target layer, or LoRA by target layer; what that cost and rests on."""

    adapters: dict[str, dict[int, Adapter]]
    lora: dict[int, carry_lora.Factors]
    figures: dict[str, float]
    flops: float
    calibration: Calibration
    end: End


def plan(inputs: Inputs) -> BottleneckPlan:
    """Match the layers, and say for every tensor of the target, its new adapters included, where it comes from.

    Raises:
        TransferError: the source has no adapter, or one that cannot be carried across, or the target is no mBART.
    """
    if not isinstance(inputs.target.get_encoder(), MBartEncoder):
        raise TransferError("method bottleneck needs an mBART as it is published, not a graft, as the target.")
    found = _adapters(inputs)
    rank = 0 if found else carry_lora.rank_of(inputs)
    if rank and bottleneck.adapters(inputs.target):
        raise TransferError(
            "the target has bottleneck adapters, on which LoRA cannot be merged: adapt the source with `adapter: "
            "{type: bottleneck}`, or transfer into the target without adapters."
        )
    mending = rows.plan(inputs)
    mend = rows.fit(mending, inputs)
    calibration = _calibration(inputs)
    with rows.mended(mending, mend, inputs):
        phi = match_layers(calibration.cka())
    groups = source_layers(phi, depth(calibration.source))
    written = _written(inputs, groups, found, rank)
    figures = {} if mending is None else mending.figures
    return BottleneckPlan(
        entries=[e for e in rows.entries(mending, inputs) if e.tensor not in {w.tensor for w in written}] + written,
        tied=tied_names(inputs.target),
        tensors={entry.tensor: torch.empty(0) for entry in written} | inputs.target.state_dict(),
        figures=figures | {f"{LAYER_MAP}.{layer}": float(k) for layer, k in enumerate(phi) if layer},
        warnings=[] if mending is None else mending.warnings,
        rows=mending, mend=mend, calibration=calibration, groups=groups, adapters=found, rank=rank,
    )  # fmt: skip


def _written(
    inputs: Inputs, groups: Mapping[int, Sequence[int]], adapters: Mapping[str, Sequence[Adapter]], rank: int
) -> list[Entry]:
    """The entries of what is carried across: new adapters of the target's layers, or weights that LoRA changes."""
    transform, before, why = WRITTEN[inputs.settings.control]
    entries = []
    for layer, sources in groups.items():
        place, origin = f"{ENCODER}.layers.{layer - 1}", f"{before}source layer {' + '.join(map(str, sources))}"
        for name in adapters:
            adapter = f"{place}.{bottleneck.ATTRIBUTE}.{bottleneck.new_name(inputs.target, name)}"
            parts = [f"{adapter}.{key}" for key in ("down.weight", "down.bias", "up.weight")]
            entries += [Entry(tensor=part, origin=origin, transform=transform, reason=why) for part in parts]
        if rank:
            changed = f"{place}.{carry_lora.HOST}.weight"
            entries.append(Entry(tensor=changed, origin=f"target + {origin}", transform=transform, reason=why))
    return entries


def source_layers(phi: Sequence[int], deepest: int) -> dict[int, list[int]]:
    """Return which source layers go to which target layer, each of 1 … `deepest` to exactly one, ascending.

    Layer k goes to the first target layer l with phi[l] >= k, those above all of them to the last.
    """
    groups: dict[int, list[int]] = {}
    for k in range(1, deepest + 1):
        layer = next((layer for layer, matched in enumerate(phi) if matched >= k), len(phi) - 1)
        groups.setdefault(layer, []).append(k)
    return groups


def _adapters(inputs: Inputs) -> dict[str, list[Adapter]]:
    """The source's bottleneck adapters by name, one per layer from the first on; {} if it has none."""
    found, layers = bottleneck.adapters(inputs.source_after), depth(inputs.source_after.base_model)
    for name, by_layer in found.items():
        settings = next(iter(by_layer.values())).settings
        if settings.normalize or len(by_layer) != layers:
            what = "reads normalized states" if settings.normalize else f"is in {len(by_layer)} of {layers} layers"
            raise TransferError(
                f"the source's adapter '{name}' {what}; method bottleneck carries plain ones, one per layer."
            )
    return {name: list(by_layer.values()) for name, by_layer in found.items()}


# ---------------------------------------------------------------- fit


def _calibration(inputs: Inputs) -> Calibration:
    bottleneck.activate(inputs.source_before, [])
    calibration = Calibration.of(inputs, inputs.source_before, inputs.settings.calibration_tokens)
    return replace(calibration, after=inputs.source_after.base_model)


def fit(plan: BottleneckPlan, inputs: Inputs) -> CarriedFit:
    """Fit the maps on the user's text, a tenth of the documents held out, and carry the adapters across.

    Raises:
        TransferError: too little text, or too few rows.
    """
    calibration = plan.calibration
    with rows.mended(plan.rows, plan.mend, inputs):
        carried: dict[str, dict[int, Adapter]] = {}
        lora: dict[int, carry_lora.Factors] = {}
        how = plan.groups, inputs.settings.ridge_lambda, inputs.settings.control
        if plan.adapters:
            carried, figures = carry_bottleneck.carry(calibration, plan.adapters, *how)
        else:
            lora, figures = carry_lora.carry(calibration, plan.rank, *how)
        flops = calibration.flops  # what follows is measured, and not needed
        end = _end(calibration, inputs)
    return CarriedFit(adapters=carried, lora=lora, figures=figures, flops=flops, calibration=calibration, end=end)


def _end(calibration: Calibration, inputs: Inputs) -> End:
    """What the encoder's last states are, and how the source's changed there, mapped into the target."""
    documents: list[Aligned] = []
    for document in calibration.held_out:
        if sum(len(d.source_places) for d in documents) < DIAGNOSED_TOKENS:
            documents.append(document)
    source, target = _ends(calibration)
    way = calibration.fit([(source, target)], inputs.settings.ridge_lambda)[source, target].map.weight
    after = replace(calibration, source=inputs.source_after.base_model, known={})
    old = [(at[source], at[target]) for at in calibration.stream(documents, [source, target])]
    new = [at[source] for at in after.stream(documents, [source])]
    change_Na = torch.cat(new) - torch.cat([a for a, _ in old])
    return End(documents, torch.cat([b for _, b in old]), change_Na.double() @ way)


def _ends(calibration: Calibration) -> Pair:
    return Site("source", depth(calibration.source)), Site("target", depth(calibration.target))


# ---------------------------------------------------------------- apply and diagnose


@torch.no_grad()
def apply(plan: BottleneckPlan, fitted: CarriedFit, inputs: Inputs) -> StatesChanges:
    """Repair the rows, attach the carried adapters, or merge the carried LoRA and save it in adapter/; in place."""
    target = inputs.target
    mended = rows.apply(plan.rows, plan.mend, inputs)
    for name, layers in fitted.adapters.items():
        hosts = {f"{ENCODER}.layers.{layer - 1}": adapter for layer, adapter in layers.items()}
        settings, new = next(iter(layers.values())).settings, bottleneck.new_name(inputs.target, name)
        bottleneck.attach(target, settings, new, {host: a.settings.bottleneck_size for host, a in hosts.items()})
        for host, adapter in bottleneck.adapters(target)[new].items():
            adapter.load_state_dict(hosts[host].state_dict())
    if fitted.lora:
        factors = {f"{ENCODER}.layers.{layer - 1}.{carry_lora.HOST}": pair for layer, pair in fitted.lora.items()}
        adapters.merge_lora(target, factors, inputs.out_dir)
    return StatesChanges(target, rows=mended)


def diagnose(plan: BottleneckPlan, fitted: CarriedFit, inputs: Inputs, changes: StatesChanges) -> dict[str, float]:
    """Measure the maps, the carried adapters, and what became of the change at the end of the target's encoder.

    `layer_map.l`: the source layer that matches target layer l. `change_heldout_r2.*`: how much of the wanted change of
    a layer its adapter makes, `_centred`: beyond its mean over the tokens. `end_cosine`, `end_ratio`: of the change of
    the encoder's output that was made to the one that was wanted; `end_cosine_centred`: again beyond their means;
    `end_wanted`: the size of the wanted change relative to the spread of the outputs.
    """
    _, target = _ends(fitted.calibration)
    states = [at[target] for at in fitted.calibration.stream(fitted.end.documents, [target])]
    made_Nb, wanted_Nb = torch.cat(states).double() - fitted.end.before.double(), fitted.end.wanted
    spread = (fitted.end.before - fitted.end.before.mean(0)).norm()
    figures = {name: value for name, value in plan.figures.items() if name.startswith(LAYER_MAP)} | fitted.figures
    figures["end_wanted"] = float(wanted_Nb.norm() / spread)
    if wanted_Nb.any() and made_Nb.any():
        figures["end_cosine"] = _cosine(made_Nb, wanted_Nb)
        figures["end_cosine_centred"] = _cosine(made_Nb - made_Nb.mean(0), wanted_Nb - wanted_Nb.mean(0))
        figures["end_ratio"] = float(made_Nb.norm() / wanted_Nb.norm())
        if figures["end_cosine"] < UNLIKE and inputs.settings.control == "none":
            logger.warning(
                "transfer: the change of the target's states is not the one that was wanted (cosine %.2f): what was "
                "carried across is noise to this target.", figures["end_cosine"],
            )  # fmt: skip
    return figures | rows.diagnose(plan.rows, plan.mend, inputs, changes.rows)


def _cosine(x: Tensor, y: Tensor) -> float:
    return float((x * y).sum() / (x.norm() * y.norm()))
