"""The transfer's section: where values come from, and the diagnostics."""

from __future__ import annotations

from polygraft.report import write


def test_page_explains_the_transfer(page):
    transfer = page[page.index('id="transfer"') : page.index('id="samples"')]
    for said in ("0.422", "0.432", "0.442", "the target never learned them", "The 6 whole tensors", "ridge, centred"):
        assert said in transfer, said
    assert "model.shared.weight is one tensor with lm_head.weight, model.encoder.embed_tokens.weight" in transfer


def test_diagnostics_may_stand_in_the_stage_result(tmp_path, make_run, cut):
    root = make_run(tmp_path / "run", [1])
    cut(root, "*/*/transfer/diagnostics.json")
    assert "<code>source_reliance</code>" in write(root).read_text(encoding="utf-8")
