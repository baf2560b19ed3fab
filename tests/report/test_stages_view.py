"""The stages' sections: settings, versions, machine, and stages that arms share."""

from __future__ import annotations

import json

from polygraft.report import write
from polygraft.report.folder import read_run
from polygraft.report.stages_view import settings_groups


def test_page_shows_settings_versions_and_machine(page, assert_well_formed):
    text = assert_well_formed(page).text
    for said in ("train_file: polygraft/sample/uk/train.jsonl", "poisson_lambda", "budget.tokens", "5.23.0", "0123abc",
                 "Linux-6.1-x86_64", "2026-01-02 03:11:05 UTC", "812 MB", "3.9 TFLOP"):  # fmt: skip
        assert said in text, said
    assert "polygraft/nano-mbart checkpoint, fingerprint 5e0c0ffee5e0 " in text
    assert "Fine-tuning: plain (3 seeds 1, 2, 3); direct (3 seeds 1, 2, 3); detour (3 seeds 1, 2, 3)" in text
    assert "budget.epochs" not in text  # a unit that was not given is no setting


def test_what_was_left_of_a_common_budget_is_listed_once_per_arm(tmp_path, make_run, change):
    root = make_run(tmp_path / "run", [1, 2])
    with (root / "recipe.yaml").open("a", encoding="utf-8") as file:
        file.write("adaptation_budget: {tokens: 400000}\n")
    for seed, left in {1: 149_000, 2: 151_000}.items():
        path = root / "detour" / f"seed-{seed}" / "adapt_target" / "stage.json"
        settings = json.loads(path.read_text(encoding="utf-8"))["settings"]
        change(path, settings=settings | {"budget": {"tokens": left, "flops": None}})
    groups = [group for group in settings_groups(read_run(root)) if group["key"] == "adapt_target"]
    assert {group["used"]: dict(group["rows"])["budget"] for group in groups} == {
        "direct (2 seeds 1, 2)": "150000 tokens (what was left of adaptation_budget)",
        "detour (2 seeds 1, 2)": "149000 tokens, 151000 tokens (what was left of adaptation_budget)",
    }
    assert all(dict(group["rows"])["poisson_lambda"] == "3.5" for group in groups)


def test_shared_stages_are_marked_once(tmp_path, make_run, change):
    root = make_run(tmp_path / "run", [1])
    for arm in ("direct", "detour"):
        change(root / arm / "seed-1" / "adapt_target" / "stage.json", fingerprint="same")
    html = write(root).read_text(encoding="utf-8")
    assert html.count("same as direct, seed 1") == 1
    assert ">direct, deto…</text>" in html  # one curve, labelled with both arms
