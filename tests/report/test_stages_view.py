"""The stages' sections: settings, versions, machine, and stages that arms share."""

from __future__ import annotations

import json
import shutil

import yaml

from polygraft.report import write
from polygraft.report.folder import read_run
from polygraft.report.formats import count, date, flops, seconds, size
from polygraft.report.stages_view import settings_groups


def test_page_shows_settings_versions_and_machine(run, page, assert_well_formed, record_of):
    text = assert_well_formed(page).text
    record = record_of(run / "detour" / "seed-1" / "adapt")
    result = record["result"]
    row = (
        f"detour 1 adapt done {seconds(record['seconds'])} {count(result['steps'])} {count(result['tokens'])} "
        f"{flops(result['flops'])} {size(record['peak_memory_bytes'])} "
        f"{result['eval_loss_first']:.3f} → {result['eval_loss']:.3f}"
    )
    fingerprint = record["inputs"][next(name for name in record["inputs"] if not name.startswith("file:"))]
    for said in (
        row,
        record["versions"]["transformers"],
        record["machine"]["platform"],
        date(record["started"]),
        "budget.tokens 200",
        "poisson_lambda",
        f"xlmr checkpoint, fingerprint {fingerprint[:12]} ",
    ):
        assert said in text, said
    assert "Fine-tuning: plain (2 seeds 1, 2); detour (2 seeds 1, 2)" in text
    assert "budget.epochs" not in text  # a unit that was not given is no setting


def test_what_was_left_of_a_common_budget_is_listed_once_per_arm(run, record_of):
    (group,) = (one for one in settings_groups(read_run(run)) if one.title == "Adapting the target")
    left = [record_of(run / "detour" / f"seed-{n}" / "adapt_target")["settings"]["budget"]["tokens"] for n in (1, 2)]
    assert all(0 < tokens <= 400 for tokens in left)
    assert group.used == "detour (2 seeds 1, 2)"
    said = ", ".join(dict.fromkeys(f"{tokens} tokens" for tokens in left))
    assert dict(group.shown)["budget"] == f"{said} (what was left of adaptation_budget)"
    assert dict(group.shown)["poisson_lambda"] == "3.5"


def test_shared_stages_are_marked_once(copy, change, record_of):
    fingerprint = record_of(copy / "detour" / "seed-1" / "finetune")["fingerprint"]
    change(copy / "plain" / "seed-1" / "finetune" / "stage.json", fingerprint=fingerprint)
    html = write(copy).read_text(encoding="utf-8")
    assert html.count("same as plain, seed 1") == 1
    assert ">plain, detour</text>" in html  # one curve, labelled with both arms


def test_losses_of_unlike_objectives_have_a_panel_each(copy, change, record_of):
    recipe = yaml.safe_load((copy / "recipe.yaml").read_text(encoding="utf-8"))
    recipe["arms"]["plain"] = {"adapt_target": {"objective": "mlm"}}
    (copy / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    other = shutil.copytree(copy / "detour" / "seed-1" / "adapt_target", copy / "plain" / "seed-1" / "adapt_target")
    settings = record_of(other)["settings"] | {"objective": "mlm"}
    change(other / "stage.json", settings=settings, fingerprint="another")
    html = write(copy).read_text(encoding="utf-8")
    assert ">Adapting the target (masked language modelling)</text>" in html
    assert ">Adapting the target (denoising)</text>" in html


def test_a_stage_that_stopped_early_and_scores_of_a_sample_are_shown(copy, change, record_of):
    stage = copy / "plain" / "seed-1" / "finetune"
    assert ", decoded sample" not in write(copy).read_text(encoding="utf-8")
    change(stage / "stage.json", result=record_of(stage)["result"] | {"stopped_early": True}, fingerprint="another")
    lines = [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]
    lines = [line | {"eval_chrf++": 12.34} if "eval_loss" in line else line for line in lines]
    (stage / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    html = write(copy).read_text(encoding="utf-8")
    assert html.count("done, stopped early") == 1
    assert ">Fine-tuning, decoded sample</text>" in html
    assert "ends at 12.340" in html
