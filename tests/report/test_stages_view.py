"""The stages' sections: settings, versions, machine, and stages that arms share."""

from __future__ import annotations

from polygraft.report import write


def test_page_shows_settings_versions_and_machine(page, assert_well_formed):
    text = assert_well_formed(page).text
    for said in ("train_file: polygraft/sample/uk/train.jsonl", "poisson_lambda", "budget.tokens", "5.23.0", "0123abc",
                 "Linux-6.1-x86_64", "2026-01-02 03:11:05 UTC", "812 MB", "3.9 TFLOP"):  # fmt: skip
        assert said in text, said
    assert "polygraft/nano-mbart checkpoint, fingerprint 5e0c0ffee5e0 " in text
    assert "Fine-tuning: plain (3 seeds 1, 2, 3); direct (3 seeds 1, 2, 3); detour (3 seeds 1, 2, 3)" in text
    assert "budget.epochs" not in text  # a unit that was not given is no setting


def test_shared_stages_are_marked_once(tmp_path, make_run, change):
    root = make_run(tmp_path / "run", [1])
    for arm in ("direct", "detour"):
        change(root / arm / "seed-1" / "adapt_target" / "stage.json", fingerprint="same")
    html = write(root).read_text(encoding="utf-8")
    assert html.count("same as direct, seed 1") == 1
    assert ">direct, deto…</text>" in html  # one curve, labelled with both arms
