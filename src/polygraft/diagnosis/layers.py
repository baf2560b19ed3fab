"""How alike the layers of source and target are, and which matches which."""

from __future__ import annotations

from typing import Any

from polygraft.errors import DataError, TransferError
from polygraft.recipe import Recipe
from polygraft.stages.transfer import load_inputs
from polygraft.transfers.methods import EncoderTransfer
from polygraft.transfers.rows import mended as rows
from polygraft.transfers.states.calibration import Calibration, match_layers

TOKENS = 20_000


def compare(arm: Recipe, seed: int) -> tuple[dict[str, Any] | None, list[str]]:
    """Return the linear CKA of an arm's source and target, both before adaptation, the target's dead rows re-centred.

    Returns:
        {"source", "target": names, "similarity": [L_source + 1][L_target + 1], "matched": phi of `match_layers`}, or
        None with a sentence that says why not.
    """
    if arm.source is None or arm.text is None:
        return None, []
    settings = EncoderTransfer(rows="recentre")
    try:
        inputs, _ = load_inputs(settings, None, arm.source, arm.target, arm.text, seed, arm.running)
        plan = rows.plan(inputs)
        with rows.mended(plan, rows.fit(plan, inputs), inputs):
            similarity = Calibration.of(inputs, inputs.source_after, TOKENS).cka()
    except (DataError, TransferError) as error:
        return None, [f"The layers of {arm.source} and {arm.target} were not compared: {error}"]
    found = {"source": arm.source, "target": arm.target}
    return {**found, "similarity": similarity.tolist(), "matched": match_layers(similarity)}, []
