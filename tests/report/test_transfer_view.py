"""The transfer's section: where values come from, and the diagnostics."""

from __future__ import annotations

import json

import pytest

from polygraft.report.formats import MISSING, decimal
from polygraft.report.transfer_view import explain
from polygraft.transfers.methods import METHODS


def test_page_explains_the_transfer(run, page, assert_well_formed):
    text = assert_well_formed(page[page.index('<section id="transfer"') : page.index('<section id="samples"')]).text
    folders = [run / "detour" / f"seed-{seed}" / "transfer" for seed in (1, 2)]
    plan, *_ = (json.loads((folder / "plan.json").read_text(encoding="utf-8")) for folder in folders)
    found = [json.loads((folder / "diagnostics.json").read_text(encoding="utf-8")) for folder in folders]
    by_row = [entry for entry in plan["entries"] if entry["rows"] is not None]
    whole = len(plan["entries"]) - len(by_row)
    first, figures = by_row[0], [decimal(one["heldout_r2"], 3) for one in found]
    for said in (
        "embeddings: detour", "Diagnostic detour repair, seeds 1, 2", f"heldout_r2 {figures[0]} · {figures[1]}",
        f"The {whole} whole tensors (target, keep)", f"{first['tensor']} {first['token_class']} {first['rows']} ",
        METHODS["embeddings"].explanations["fit_rows"],
    ):  # fmt: skip
        assert said in text, said
    assert "model.shared.weight is one tensor with " in text and "lm_head.weight" in text
    assert all(warning in text for warning in plan["warnings"])


def test_a_diagnostic_of_one_seed_alone_has_a_gap(copy, change, text_of):
    change(copy / "detour" / "seed-1" / "transfer" / "diagnostics.json", own_invention=0.5)
    said = f"As recorded by the transfer method; see docs/methods.md. own_invention 0.500 · {MISSING}"
    assert said in text_of(copy)


@pytest.mark.parametrize("method", METHODS)
def test_what_a_method_measures_is_explained(method):
    for name, sentence in METHODS[method].explanations.items():
        assert explain(method, f"{name}.CYRILLIC") == sentence
    assert "As recorded" in explain(method, "own_invention")
    assert "As recorded" in explain("a method that is gone", "heldout_r2")
