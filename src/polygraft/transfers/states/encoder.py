"""Transfer of the encoder itself: the adapted source before the target's decoder, with a linear bridge between them.

    H' = H W + c        H: the source's last hidden states; W, c: ridge onto the target's own, on the user's text

Nothing of the source's encoder is lost, but the decoder meets states that are only linearly like those it knows, so the
bridge and the cross-attention have to be warmed up by denoising. The decoder's never-learned rows are repaired as by
`embeddings`. The result is a plain transformers `EncoderDecoderModel` with the target's tokenizer (models/graft.py).

Controls: `random` puts an encoder of the source's shape that knows nothing in its place; `permuted` the source's, which
reads other tokens. The bridge is fitted on what these make of the text.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from polygraft.data.layout import is_cc25
from polygraft.errors import TransferError
from polygraft.models import graft
from polygraft.models.bottleneck import adapters
from polygraft.models.checkpoints import max_positions
from polygraft.models.matrices import embedding_matrix
from polygraft.transfers.contract import Inputs
from polygraft.transfers.controls import PERMUTED, RANDOM, cycle, generator_of
from polygraft.transfers.plan import Entry, Transform
from polygraft.transfers.rows import mended as rows
from polygraft.transfers.rows.embeddings import RowFit
from polygraft.transfers.rows.mended import StatesChanges, StatesPlan
from polygraft.transfers.states.calibration import Calibration, Fitted, Site, depth

# Measured on nano XLM-R, without any training in that order: 0.07 to 0.14 nats more masked-language-model loss.
CC25 = "mBART-cc25 puts the language last, so that the encoder reads its <s> last, too, and the text a position early"
KNOWS_NOTHING = "control: of the shape of the source's, with random values"


class GraftTransform(Transform):
    """How the parts of a graft are made."""

    COPY = "copy rows"
    COPY_OTHERS = "copy rows of other tokens"
    ZERO = "zero"
    RIDGE = "ridge"
    FOLD = "fold the bridge in"
    DRAW = "draw"


@dataclass(frozen=True, kw_only=True)
class BridgeFit:
    """The encoder and its bridge, what that cost, and the fit of the decoder's rows."""

    encoder: PreTrainedModel
    bridge: Fitted
    flops: float
    mend: RowFit | None


def plan(inputs: Inputs) -> StatesPlan:
    """Say for every tensor of the graft, and every class of rows of its two embedding matrices, where it comes from.

    Raises:
        TransferError: the two models cannot be put together.
    """
    source, target = inputs.source_after.base_model, inputs.target
    graft.assert_graftable(target)
    if source.config.pad_token_id != target.config.pad_token_id:
        raise TransferError(
            f"<pad> is id {source.config.pad_token_id} in the source, {target.config.pad_token_id} in the target; one "
            "model cannot read both. Use method: embeddings."
        )
    depth(source)
    if adapters(source):
        raise TransferError(
            "the source has bottleneck adapters beside its weights, which a plain graft cannot hold. Adapt it with all "
            "weights or adapter: {type: lora}, or use method: bottleneck."
        )
    empty = graft.skeleton(_config(inputs))
    mending = rows.plan(inputs)
    by_row = [entry for entry in rows.entries(mending, inputs) if entry.ids is not None]
    decoder_rows = [replace(entry, tensor=graft.DECODER_ROWS) for entry in by_row]
    if not decoder_rows:
        decoder_rows = [Entry(tensor=graft.DECODER_ROWS, reason="the target's, unchanged")]
    whole = [_whole(name, empty, inputs.settings.control) for name in empty.state_dict() if name not in graft.TIED]
    warnings = [] if mending is None else mending.warnings
    return StatesPlan(
        entries=[*decoder_rows, *_encoder_rows(inputs), *(entry for entry in whole if entry is not None)],
        tied=graft.TIED,
        tensors=empty.state_dict(),
        figures={} if mending is None else mending.figures,
        warnings=[*warnings, *([CC25] if is_cc25(inputs.target_tokenizer) else [])],
        rows=mending,
    )


def _config(inputs: Inputs) -> Any:
    source = inputs.source_after.base_model
    return graft.graft_config(source.config, inputs.target.config, min(map(max_positions, (source, inputs.target))))


def _encoder_rows(inputs: Inputs) -> list[Entry]:
    vocabulary, control = inputs.vocabulary, inputs.settings.control
    shared, alone = np.flatnonzero(vocabulary.source_of >= 0), np.union1d(vocabulary.only_in_target, vocabulary.unused)
    tokens = _tokens_of_both(inputs) if control == PERMUTED else shared[:0]
    alike = "the encoder is laid out in the target's vocabulary, token by token"
    codes = "the source's <s>: `[lang] X </s>` is then `<s> X </s>` to it"
    others = "control: tokens of the text, and all others, trade rows among themselves"
    classes = [
        ("text tokens of both", tokens, GraftTransform.COPY_OTHERS, others),
        ("tokens of both", np.setdiff1d(shared, tokens), GraftTransform.COPY, alike),
        ("<pad>", vocabulary.pad, GraftTransform.COPY, alike),
        ("language codes", vocabulary.language_code, GraftTransform.COPY, codes),
        ("only in the target", alone, GraftTransform.COPY, "the source's <unk>: it lacks these tokens"),
    ]
    origin = RANDOM if control == RANDOM else "source"
    return [
        Entry(tensor=graft.ENCODER_ROWS, token_class=f"encoder: {name}", ids=ids, origin=origin, transform=transform,
              reason=why)
        for name, ids, transform, why in classes
        if len(ids)
    ]  # fmt: skip


def _whole(name: str, model: nn.Module, control: str) -> Entry | None:
    """The entry of a tensor that is not planned by rows."""
    if name in (graft.ENCODER_ROWS, graft.DECODER_ROWS):
        return None
    folded = () if hasattr(model, "enc_to_dec_proj") else tuple(graft.cross_projections(model))
    if name.startswith("enc_to_dec_proj"):
        why = "from the source's states to the target's own"
        return Entry(tensor=name, origin="calibration", transform=GraftTransform.RIDGE, reason=why)
    if name.startswith("encoder.pooler"):
        why = "its class has one; nothing reads it"
        return Entry(tensor=name, origin="none", transform=GraftTransform.ZERO, reason=why)
    if name.startswith(folded):
        why = "reads the encoder: the bridge goes into it, since the models are equally wide"
        return Entry(tensor=name, origin="target + calibration", transform=GraftTransform.FOLD, reason=why)
    if name.startswith("encoder.") and control == RANDOM:
        return Entry(tensor=name, origin=RANDOM, transform=GraftTransform.DRAW, reason=KNOWS_NOTHING)
    side = "source" if name.startswith("encoder.") else "target"
    return Entry(tensor=name, origin=side, reason=f"the {side}'s, unchanged")


def fit(plan: StatesPlan, inputs: Inputs) -> BridgeFit:
    """Fit the bridge on the user's text, a tenth of the documents held out, and the map for the decoder's rows.

    Raises:
        TransferError: too little text, or too few rows.
    """
    encoder = _encoder(inputs)
    calibration = Calibration.of(inputs, encoder, inputs.settings.calibration_tokens, grafted=True)
    read = _rows_read(inputs)
    calibration.documents, calibration.held_out = (
        [replace(document, source=read[document.source].tolist()) for document in documents]
        for documents in (calibration.documents, calibration.held_out)
    )
    pair = Site("source", depth(calibration.source)), Site("target", depth(calibration.target))
    mend = rows.fit(plan.rows, inputs)
    with rows.mended(plan.rows, mend, inputs):
        bridge = calibration.fit([pair], inputs.settings.ridge_lambda)[pair]
    return BridgeFit(encoder=encoder, bridge=bridge, flops=calibration.flops, mend=mend)


def _encoder(inputs: Inputs) -> Any:
    """The source's encoder, or as a control one of its shape that knows nothing."""
    base = inputs.source_after.base_model
    if inputs.settings.control != RANDOM:
        return base
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(inputs.seed)
        drawn = type(base)(base.config).eval()
    drawn.pooler = base.pooler  # a masked language model's has none, and would not compute it
    return drawn


def _tokens_of_both(inputs: Inputs) -> np.ndarray:
    """The target's rows of text tokens that the source has, too."""
    tokens = inputs.vocabulary.ordinary
    return tokens[inputs.vocabulary.source_of[tokens] >= 0]


def _rows_read(inputs: Inputs) -> np.ndarray:
    """For each id of the source the row that its encoder reads, int64: its own, but under `permuted` another token's.

    The tokens of the user's text trade rows among themselves, and so do all others: rows of tokens that the text lacks,
    of other languages mostly, would make another text of it, not one of wrong tokens. What is frequent may read as what
    is rare. None keeps its own row, and none is lost.
    """
    read = np.arange(len(embedding_matrix(inputs.source_after)))
    if inputs.settings.control == PERMUTED:
        tokens, generator = _tokens_of_both(inputs), generator_of(inputs)
        for some in (tokens[inputs.counts[tokens] > 0], tokens[inputs.counts[tokens] == 0]):
            ids = inputs.vocabulary.source_of[some]
            read[ids] = ids[cycle(len(ids), generator).numpy()]
    return read


def apply(plan: StatesPlan, fitted: BridgeFit, inputs: Inputs) -> StatesChanges:
    """Build the graft from the source's encoder and the target's decoder, both of which become part of it."""
    mended = rows.apply(plan.rows, fitted.mend, inputs)
    encoder: Any = fitted.encoder
    old, of_source = encoder.embeddings.word_embeddings, torch.from_numpy(_source_rows(inputs))
    new = nn.Embedding(
        inputs.vocabulary.target_rows, old.embedding_dim, padding_idx=old.padding_idx, dtype=old.weight.dtype
    )
    encoder.embeddings.word_embeddings = new
    model = graft.assemble(encoder, inputs.target, _config(inputs))
    with torch.no_grad():
        new.weight.copy_(old.weight[of_source])
    graft.set_bridge(model, fitted.bridge.map.weight, fitted.bridge.map.intercept)
    inputs.target_tokenizer.model_max_length = model.config.max_position_embeddings
    return StatesChanges(model, rows=mended)


def _source_rows(inputs: Inputs) -> np.ndarray:
    """The source's row for each of the target's, int64 [V]."""
    vocabulary, tokenizer = inputs.vocabulary, inputs.source_tokenizer
    found = np.where(vocabulary.source_of >= 0, _rows_read(inputs)[vocabulary.source_of], tokenizer.unk_token_id)
    found[vocabulary.pad] = tokenizer.pad_token_id
    found[vocabulary.language_code] = tokenizer.cls_token_id
    return found


def diagnose(plan: StatesPlan, fitted: BridgeFit, inputs: Inputs, changes: StatesChanges) -> dict[str, float]:
    """Return those of `embeddings` on the decoder's rows, and how well the bridge does on held-out documents."""
    bridge = {
        "bridge_heldout_r2": fitted.bridge.heldout_r2, "bridge_fit_tokens": fitted.bridge.fit_tokens,
        "bridge_heldout_tokens": fitted.bridge.heldout_tokens,
    }  # fmt: skip
    return bridge | rows.diagnose(plan.rows, fitted.mend, inputs, changes.rows)
