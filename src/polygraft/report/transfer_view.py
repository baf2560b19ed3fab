"""The transfer's section: where every tensor and token class comes from, and what each diagnostic says."""

from __future__ import annotations

from typing import Any

from polygraft.report.folder import Run, SeedRun, mapping, number
from polygraft.report.formats import MISSING, decimal, plain

# One sentence per diagnostic; a name is looked up by its part before the first dot.
EXPLANATIONS = {
    "dead_rows": "Embedding rows that the target never learned, in all and per script: their tokens did not occur in "
    "its training, so the rows are noise around a common drift.",
    "dead_language_codes": "Language codes among the rows that the target never learned.",
    "dead_rows_drift_share": "Share of the never-learned rows' squared length that is one common direction: what the "
    "tied output matrix does to every token that never occurs.",
    "dead_rows_radius": "Median distance of the never-learned rows from their common drift.",
    "dead_rows_spread": "How much these distances vary, where 1 is pure Gaussian noise.",
    "dead_rows_isotropy": "How evenly the never-learned rows fill all directions once the drift is gone: 1 is pure "
    "noise, which means that nothing is lost by replacing them.",
    "dead_rows_pad_offset": "Distance of the row of <pad>, which is never a target, from the common drift, in radii: "
    "near 0 if these rows were never targets either.",
    "fit_rows": "Tokens that both models know, on which the linear map between their embeddings was fitted.",
    "heldout_rows": "Tokens kept out of the fit, on which the map is judged.",
    "heldout_r2": "Share of the target embeddings' variance that the map explains on tokens it was not fitted on: "
    "1 is perfect, 0 no better than the mean row.",
    "csls_precision_at_1": "How often a mapped row's nearest neighbour among the target's rows is its own token, "
    "corrected for rows that are near everything (CSLS).",
    "mean_pairwise_cosine": "Mean cosine between two rows: near 1, rows point the same way and cannot tell their "
    "tokens apart; near 0, they can.",
    "median_norm": "Median length of the rows; new rows should be about as long as trained ones.",
    "changed_rows": "Rows that the transfer rewrote.",
    "change_norm": "Mean length of the change of a rewritten row; compare it with the median length of a row.",
    "text_share_changed": "Share of the text's tokens whose rows were rewritten: where it is small, the transfer "
    "cannot matter much.",
    "text_share_dead": "Share of the text's tokens whose rows the target never learned.",
    "bridge_heldout_r2": "Share of the variance of the target's own last states that the bridge explains from the "
    "source's, on documents that it was not fitted on.",
    "bridge_fit_tokens": "Tokens of the text on which the bridge was fitted.",
    "bridge_heldout_tokens": "Tokens of the documents kept out of the fit.",
    "matched_source_layer": "Layer of the source that is most like this layer of the target, in order.",
    "layer_cka": "How alike the states of the two layers are, whatever their axes: 1 is the same geometry (CKA).",
    "state_map_heldout_r2": "Share of the variance of a target layer's states that the linear map explains from the "
    "matched layer of the source, on documents that it was not fitted on.",
    "state_map_fit_tokens": "Tokens of the text on which the maps between states were fitted.",
    "state_map_heldout_tokens": "Tokens of the documents kept out of the fit.",
    "change_asked": "Squared change that the source's adaptation asks of the target's states, relative to their "
    "variance, mean over layers: near 0, adaptation changed little.",
    "change_reached": "Share of that which the target's encoder has learned, on held-out documents: 1 is all of it.",
    "layer_map": "Layer of the source that is most like this layer of the target, in order (by CKA).",
    "input_map_heldout_r2": "Share of the variance of a source layer's states that a linear map explains from the "
    "target's, on documents that it was not fitted on: what the carried adapter reads.",
    "output_map_heldout_r2": "Share of the variance of a target layer's states that a linear map explains from the "
    "source's, on documents that it was not fitted on: what becomes of the adapter's change.",
    "change_heldout_r2": "Share of the wanted change of a layer's states that what was carried makes, on held-out "
    "documents: 1 is all of it, below 0 it is worse than nothing.",
    "change_heldout_r2_centred": "The same beyond what all tokens have in common: knowledge of single tokens.",
    "end_wanted": "Size of the change that the source's adaptation asks of the encoder's last states, relative to "
    "their spread.",
    "end_cosine": "Cosine of the change of the encoder's last states that was made with the one that was wanted.",
    "end_cosine_centred": "The same beyond what all tokens have in common: knowledge of single tokens.",
    "end_ratio": "Size of the change that was made, relative to the one that was wanted.",
    "mapped_rows": "Rows that one map from the source gives, in all and of tokens that the text lacks.",
    "map_moved": "Mean distance by which training the map moved the rows of tokens that the text has (seen) and lacks "
    "(unseen); compare it with the median length of a row.",
    "source_reliance": "Loss with another document's source minus loss with the right one, in nats per token: near 0, "
    "the target ignores its encoder, and nothing that is transferred into it can show.",
    "kcf": "Share of direct adaptation's gain that the transfer carried over: 1 is all of it.",
}
_NO_EXPLANATION = "As recorded by the transfer method; see docs/methods.md."


def explain(name: str) -> str:
    """One sentence on what a diagnostic measures; `dead_rows.CYRILLIC` is explained as `dead_rows`."""
    return EXPLANATIONS.get(name.partition(".")[0], _NO_EXPLANATION)


def _diagnostic_rows(diagnostics: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows with those of one stem together; the sentence is shown before the first of them."""
    stems: dict[str, list[tuple[str, object]]] = {}
    for name, value in diagnostics.items():
        stems.setdefault(name.partition(".")[0], []).append((name, value))
    return [
        {"name": name, "value": _shown(value), "sentence": explain(name), "first": index == 0}
        for group in stems.values()
        for index, (name, value) in enumerate(group)
    ]


def _shown(value: object) -> str:
    if isinstance(value, float) and number(value) is not None and 0.001 <= abs(value) < 1000:
        return decimal(value, 3)
    return plain(value)


def _rows_of(plan: dict[str, Any]) -> tuple[list[dict[str, str]], list[dict[str, Any]]]:
    """The plan's entries: those that name rows of a tensor one by one, tensors taken as a whole by their origin."""
    found = plan.get("entries")
    entries = [mapping(entry) for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []
    by_row: list[dict[str, str]] = []
    whole: dict[tuple[str, str, str], list[str]] = {}
    for entry in entries:
        said = {key: plain(entry.get(key)) for key in ("tensor", "token_class", "origin", "transform", "reason")}
        said["rows"] = f"{int(rows):,}" if (rows := number(entry.get("rows"))) is not None else "all"
        if entry.get("rows") is not None:
            by_row.append(said)
        else:
            group = (said["origin"], said["transform"], said["reason"])
            whole.setdefault(group, []).append(said["tensor"])
    grouped = [
        {"origin": origin, "transform": transform, "reason": reason, "tensors": tensors}
        for (origin, transform, reason), tensors in whole.items()
    ]
    return by_row, grouped


def _ties(plan: dict[str, Any]) -> list[str]:
    """A sentence per tensor that has other names."""
    owners: dict[str, list[str]] = {}
    for alias, owner in mapping(plan.get("tied")).items():
        owners.setdefault(str(owner), []).append(alias)
    return [
        f"{owner} is one tensor with {', '.join(aliases)}: a change of it reaches these, too."
        for owner, aliases in owners.items()
    ]


def _one(seed_run: SeedRun, index: int) -> dict[str, Any]:
    stage = next(stage for stage in seed_run.stages if stage.name == "transfer")
    by_row, whole = _rows_of(seed_run.plan)
    warnings = seed_run.plan.get("warnings")
    words = [str(stage.result.get(key) or stage.settings.get(key) or "") for key in ("method", "mode")]
    return {
        "name": seed_run.arm,
        "arm": index,
        "method": ", ".join(word for word in words if word),
        "classes": [(name, plain(value)) for name, value in mapping(stage.result.get("rows")).items()],
        "by_row": by_row,
        "whole": whole,
        "ties": _ties(seed_run.plan),
        "warnings": [plain(warning) for warning in warnings] if isinstance(warnings, list) else [],
        "diagnostics": _diagnostics(seed_run),
    }


def _diagnostics(seed_run: SeedRun) -> list[dict[str, Any]]:
    """What was measured: the plan's figures first, then the diagnostics; a name in both is shown once."""
    return _diagnostic_rows(mapping(seed_run.plan.get("figures")) | seed_run.diagnostics)


def transfers(run: Run) -> list[dict[str, Any]]:
    """The transfer of each arm's first seed that has one; the other seeds' diagnostics stand beside."""
    found = []
    for arm in run.arms:
        done = [seed_run for seed_run in arm.runs if _has_transferred(seed_run)]
        if not done:
            continue
        shown = _one(done[0], arm.index)
        shown["seeds"] = [seed_run.seed for seed_run in done]
        others = [{row["name"]: row["value"] for row in _diagnostics(other)} for other in done[1:]]
        for row in shown["diagnostics"]:
            row["values"] = [row["value"], *(other.get(row["name"], MISSING) for other in others)]
        found.append(shown)
    return found


def _has_transferred(seed_run: SeedRun) -> bool:
    stage = next((stage for stage in seed_run.stages if stage.name == "transfer"), None)
    return stage is not None and bool(stage.record or seed_run.plan or seed_run.diagnostics)
