"""Resume by fingerprint: what is done is not run again, and a change reruns just what depends on it."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from polygraft import pipeline
from polygraft.errors import PolygraftError
from polygraft.objectives import Denoising
from polygraft.recipe.reading import arm_recipes, dump_recipe, parse_recipe
from polygraft.runs import records
from polygraft.runs.records import read_record, run_stage
from polygraft.settings import Evaluate
from polygraft.stages import adapt


@pytest.fixture
def recipe_data(tiny_study):
    short = tiny_study["finetune"]
    arms = {
        "plain": {},
        "direct": {"transfer": {"mode": "recentre"}, "adapt_target": short},
        "detour": {"adapt": short, "transfer": {"mode": "repair"}, "adapt_target": short},
    }
    return tiny_study | {"arms": arms, "verdict": {"treatment": "detour", "control": "direct"}}


def run(data):
    recipe = parse_recipe(data, "test")
    return pipeline.run(recipe, recipe_text=dump_recipe(recipe))


def states(out: Path) -> dict[str, int]:
    """When each stage was last written."""
    return {
        str(path.parent.relative_to(out)): path.stat().st_mtime_ns for path in sorted(out.glob("*/seed-*/*/stage.json"))
    }


def test_whole_recipe_and_what_reruns(recipe_data, tmp_path):
    out = tmp_path / "out" / "tiny"
    result = run(recipe_data)
    assert Path(result["report"]).is_file()
    assert result["verdict"]["word"] == "not enough evidence"  # one seed says nothing about the noise of seeds
    assert [row["arm"] for row in result["table"]] == ["plain", "direct", "detour", "lead baseline"]
    first = states(out)
    assert set(first) == {
        "plain/seed-1/finetune", "plain/seed-1/evaluate",
        "direct/seed-1/transfer", "direct/seed-1/adapt_target", "direct/seed-1/finetune", "direct/seed-1/evaluate",
        "detour/seed-1/adapt", "detour/seed-1/transfer", "detour/seed-1/adapt_target", "detour/seed-1/finetune",
        "detour/seed-1/evaluate",
    }  # fmt: skip

    run(recipe_data)
    assert states(out) == first, "nothing is done twice"

    recipe_data["evaluate"]["max_new_tokens"] = 5
    run(recipe_data)
    changed = {stage for stage, time in states(out).items() if time != first[stage]}
    assert changed == {f"{arm}/seed-1/evaluate" for arm in ("plain", "direct", "detour")}

    second = states(out)
    recipe_data["arms"]["direct"]["adapt_target"] = {**recipe_data["finetune"], "mask_ratio": 0.2}
    run(recipe_data)
    changed = {stage for stage, time in states(out).items() if time != second[stage]}
    assert changed == {f"direct/seed-1/{stage}" for stage in ("adapt_target", "finetune", "evaluate")}

    third = states(out)
    with open(recipe_data["pairs"]["test_file"], "a") as file:
        file.write('\n{"text": "новий документ", "summary": "новий"}')
    run(recipe_data)
    changed = {stage for stage, time in states(out).items() if time != third[stage]}
    assert changed == {f"{arm}/seed-1/evaluate" for arm in ("plain", "direct", "detour")}, "contents count, not names"


def test_a_stage_that_was_taken_out_costs_nothing_and_is_not_shown(recipe_data, tmp_path, capsys):
    """It stays where it is, and is named: the verdict used to charge the arm for it."""
    short = recipe_data["finetune"]
    recipe_data["arms"] = {"direct": {}, "detour": {"adapt_target": short}}
    before = run(recipe_data)
    assert before["verdict"]["cost"]["detour"]["tokens"] > 0
    capsys.readouterr()
    recipe_data["arms"]["detour"] = {"finetune": {**short, "learning_rate": 1e-4}}
    after = run(recipe_data)
    left = tmp_path / "out" / "tiny" / "detour" / "seed-1" / "adapt_target"
    assert left.is_dir()
    assert capsys.readouterr().err.count(f"{left}: is not of this recipe; it is left alone and not counted.") == 1
    assert after["verdict"]["cost"]["detour"] == {"seconds": 0.0, "flops": 0.0, "tokens": 0.0}
    took = sum(read_record(left.with_name(stage))["seconds"] for stage in ("finetune", "evaluate"))
    assert next(row for row in after["table"] if row["arm"] == "detour")["seconds"] == pytest.approx(took)
    report = Path(after["report"]).read_text(encoding="utf-8")
    assert "detour/seed-1/adapt_target is not of this recipe" in report
    assert "Adapting the target" not in report


def test_arms_share_equal_stages(recipe_data, tmp_path):
    recipe_data["arms"] = {"one": recipe_data["arms"]["direct"], "two": recipe_data["arms"]["direct"]}
    del recipe_data["verdict"]
    calls = []
    real = records.write_record

    def counting(folder, record):
        if record["status"] == "done":
            calls.append(f"{folder.parent.parent.name}/{folder.name}")
        real(folder, record)

    records.write_record = counting
    try:
        run(recipe_data)
    finally:
        records.write_record = real
    assert calls == [f"one/{stage}" for stage in ("transfer", "adapt_target", "finetune", "evaluate")]
    assert set(states(tmp_path / "out" / "tiny")) >= {"two/seed-1/finetune", "two/seed-1/evaluate"}


ADAPTATION = ("adapt", "transfer", "warm_up", "adapt_target")


@pytest.fixture
def shared_budget(recipe_data):
    """Arms with one budget in common: denoising alone, the detour, and the detour again."""
    how = {"per_device_train_batch_size": 4, "precision": "fp32"}
    recipe_data |= {"adaptation_budget": {"tokens": 400}, "adapt_target": how}
    recipe_data["finetune"] = how | {"budget": {"steps": 1}}
    recipe_data["evaluate"] |= {"max_samples": 1}
    detour = {"adapt": how | {"budget": {"tokens": 150}}, "transfer": {"mode": "repair"}}
    recipe_data["arms"] = {"direct": {"transfer": {"mode": "recentre"}}, "detour": detour, "twin": detour}
    del recipe_data["verdict"]
    return recipe_data


def records_of(out: Path, arm: str) -> dict[str, dict]:
    folders = (out / arm / "seed-1" / stage for stage in ADAPTATION)
    return {folder.name: record for folder in folders if (record := read_record(folder))}


def last_step(folder: Path, unit: str) -> float:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    amounts = sorted({line[unit] for line in lines})
    return amounts[-1] - amounts[-2]


def assert_total_within_a_step(out: Path, arm: str, unit: str, total: float) -> float:
    """What an arm spent, all stages together, reaches the total in its last step; returns the budget of adapt_target.

    Measured, of the larger totals below: 65 (direct) and 106 tokens (detour) beyond 1,200, their last steps having 170
    and 221; 7.0e7 and 1.6e7 operations beyond 1.44e9, their last steps having 1.3e8 and 1.2e8.
    """
    records = records_of(out, arm)
    given = records["adapt_target"]["settings"]["budget"][unit]
    spent = {stage: record["result"].get(unit, 0) for stage, record in records.items()}
    assert given == total - sum(amount for stage, amount in spent.items() if stage != "adapt_target")
    assert 0 <= sum(spent.values()) - total < last_step(out / arm / "seed-1" / "adapt_target", unit)
    return given


DISTILL = {"method": "distill", "budget": {"flops": 1e8}, "per_device_train_batch_size": 4, "precision": "fp32"}
SHARED = {"tokens": (1000, 300, {"mode": "repair"}), "flops": (1.2e9, 1e8, DISTILL)}


@pytest.mark.parametrize(("unit", "total", "first", "transfer"), [(unit, *case) for unit, case in SHARED.items()])
def test_arms_share_one_adaptation_budget(shared_budget, tmp_path, unit, total, first, transfer):
    out = tmp_path / "out" / "tiny"
    shared_budget["adaptation_budget"] = {unit: total}
    for arm in ("detour", "twin"):
        shared_budget["arms"][arm]["transfer"] = transfer
        shared_budget["arms"][arm]["adapt"] = shared_budget["adapt_target"] | {"budget": {unit: first}}
    report = Path(run(shared_budget)["report"]).read_text(encoding="utf-8")
    for arm in ("direct", "detour"):
        given = assert_total_within_a_step(out, arm, unit, total)
        assert f"{given:.6g} {unit} (what was left of adaptation_budget)" in report
    assert records_of(out, "direct")["adapt_target"]["settings"]["budget"][unit] == total
    spent = {stage: record["result"].get(unit, 0) for stage, record in records_of(out, "detour").items()}
    assert spent["adapt"] >= first
    assert spent["transfer"] >= transfer.get("budget", {unit: 0})[unit]
    paths = [out / arm / "seed-1" / "adapt_target" / "model.safetensors" for arm in ("detour", "twin")]
    assert paths[0].samefile(paths[1]), "equal arms share what is left, too"

    before = states(out)
    run(shared_budget)
    assert states(out) == before, "nothing is done twice"

    shared_budget["adaptation_budget"] = {unit: total * 6 // 5}
    run(shared_budget)
    for arm in ("direct", "detour"):
        assert_total_within_a_step(out, arm, unit, total * 6 // 5)
    changed = {stage for stage, time in states(out).items() if time != before[stage]}
    rerun = ("adapt_target", "finetune", "evaluate")
    assert changed == {f"{arm}/seed-1/{stage}" for arm in ("direct", "detour", "twin") for stage in rerun}


def test_interrupted_stage_goes_on_with_the_same_rest(shared_budget, tmp_path, monkeypatch):
    folder = tmp_path / "out" / "tiny" / "detour" / "seed-1"
    shared_budget["arms"] = {"detour": shared_budget["arms"]["detour"]}
    real, found = adapt.run, []

    def interrupted(settings, model, text, seed, out_dir, **how):
        if isinstance(settings, Denoising):
            (out_dir / "half-written").write_text("x")
            raise KeyboardInterrupt
        return real(settings, model, text, seed, out_dir, **how)

    def going_on(settings, model, text, seed, out_dir, **how):
        found.append((out_dir / "half-written").exists())
        return real(settings, model, text, seed, out_dir, **how)

    monkeypatch.setattr(adapt, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(shared_budget)
    first = read_record(folder / "adapt_target")
    monkeypatch.setattr(adapt, "run", going_on)
    run(shared_budget)
    assert found == [True], "adapt is not run again, and adapt_target goes on in its own folder"
    again = read_record(folder / "adapt_target")
    assert (first["status"], again["status"]) == ("running", "done")
    assert first["fingerprint"] == again["fingerprint"]


def test_nothing_left_for_denoising(shared_budget, tmp_path):
    shared_budget["arms"]["detour"]["adapt"]["budget"] = {"steps": 30}  # whose tokens no rule can know
    said = (
        r"detour/seed-1: nothing is left for adapt_target of adaptation_budget = 400 tokens; spent by adapt \d+, "
        r"transfer 0\. Raise adaptation_budget, or lower the budgets of the earlier stages\."
    )
    with pytest.raises(PolygraftError, match=said):
        run(shared_budget)
    assert list(records_of(tmp_path / "out" / "tiny", "detour")) == ["adapt", "transfer"]


def test_finetuned_folder_is_a_plain_checkpoint(recipe_data, tmp_path):
    recipe_data["arms"], recipe_data["verdict"] = {}, None
    run(recipe_data)
    folder = tmp_path / "out" / "tiny" / "main" / "seed-1" / "finetune"
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    assert model.dtype == torch.float32
    assert model.model.shared.weight.data_ptr() == model.lm_head.weight.data_ptr()
    assert model.generation_config.forced_bos_token_id is not None
    assert "AutoModelForSeq2SeqLM" in (folder / "README.md").read_text()
    assert not (folder / "checkpoints").exists()


def test_interrupted_stage_is_resumed_and_failed_one_not_trusted(tmp_path):
    out, calls = tmp_path / "stage", []

    def fail():
        (out / "half-written").write_text("x")
        raise OSError(28, "No space left on device")

    def work():
        calls.append((out / "half-written").exists())
        return {"value": 1}

    with pytest.raises(OSError, match="No space"):
        run_stage("evaluate", out, Evaluate(), [], None, fail)
    assert read_record(out)["status"] == "running"
    assert run_stage("evaluate", out, Evaluate(), [], None, work)["result"] == {"value": 1}
    assert calls == [True], "the same stage goes on in its own folder"
    run_stage("evaluate", out, Evaluate(), [], None, work)
    assert calls == [True]
    run_stage("evaluate", out, Evaluate(num_beams=2), [], None, work)
    assert calls == [True, False], "other settings start in an empty folder"


def test_nothing_of_the_users_is_overwritten(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(PolygraftError, match="was not written by polygraft"):
        run_stage("evaluate", tmp_path, Evaluate(), [], None, dict)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    out = tmp_path / "done"
    run_stage("evaluate", out, Evaluate(), [], None, dict)
    with pytest.raises(PolygraftError, match="other settings"):
        run_stage("evaluate", out, Evaluate(num_beams=2), [], None, dict, replace=False)


def test_broken_record_is_no_record(tmp_path):
    (tmp_path / "stage.json").write_text('{"status": "done", "finger')
    assert read_record(tmp_path) is None


def test_arms_are_complete_recipes(recipe_data):
    arms = arm_recipes(parse_recipe(recipe_data, "test"))
    assert arms["plain"].adapt is None
    assert arms["detour"].adapt is not None
    assert arms["detour"].finetune == arms["plain"].finetune


def test_new_language_and_trimmed_vocabulary_in_a_recipe(recipe_data, tmp_path):
    del recipe_data["verdict"]
    trimmed = {**recipe_data["finetune"], "trim_vocabulary": True}
    recipe_data["add_languages"] = {"be_BY": "uk"}
    recipe_data["text"]["lang"] = recipe_data["pairs"]["source_lang"] = "be"
    recipe_data["finetune"] = trimmed
    recipe_data["arms"] = {"a": {"adapt_target": trimmed}, "b": {}}
    result = run(recipe_data)
    out = tmp_path / "out" / "tiny"
    new = json.loads((out / "a/seed-1/add_languages/stage.json").read_text())["result"]["be_BY"]
    assert (out / "b/seed-1/add_languages/model.safetensors").samefile(
        out / "a/seed-1/add_languages/model.safetensors"
    )  # made once
    for stage in ("adapt_target", "finetune"):
        model = AutoModelForSeq2SeqLM.from_pretrained(out / "a/seed-1" / stage)
        assert model.generation_config.forced_bos_token_id == new
        assert model.config.vocab_size == new + 1
    classes = json.loads((out / "a/seed-1/finetune/stage.json").read_text())["result"]["classes"]
    assert classes < new
    assert f"over {classes:,} classes" in Path(result["report"]).read_text(encoding="utf-8")


def test_forgetting_is_a_stage_of_every_arm(recipe_data, tmp_path):
    """It depends on the text's content and on the checkpoints; nothing depends on it, and where it is not asked for
    there is none."""
    known = tmp_path / "known.txt"
    known.write_text("Das Paket enthält die Dateien für Entwickler.\nEs wird zum Bauen von Programmen gebraucht.\n")
    recipe_data["arms"] = {arm: recipe_data["arms"][arm] for arm in ("plain", "direct")}
    recipe_data["verdict"] = {"treatment": "direct", "control": "plain"}
    assert run(recipe_data)["verdict"]["forgetting"] is None
    out = tmp_path / "out" / "tiny"
    before = states(out)

    recipe_data["forgetting"] = {"test_file": str(known), "lang": "de"}
    result = run(recipe_data)
    after = states(out)
    assert {stage: after[stage] for stage in before} == before
    assert set(after) - set(before) == {"plain/seed-1/forgetting", "direct/seed-1/forgetting"}
    found = result["verdict"]["forgetting"]
    assert found["plain"]["de_DE"]["adapted"]["effect"] == 0.0 != found["direct"]["de_DE"]["adapted"]["effect"]
    assert found["plain"]["de_DE"]["target"] == found["direct"]["de_DE"]["target"]
    assert "Held-out loss of known languages (de_DE) by adaptation: 'direct' " in result["verdict"]["sentence"]
    card = (out / "direct/seed-1/finetune/README.md").read_text(encoding="utf-8")
    target, effect = found["direct"]["de_DE"]["target"], found["direct"]["de_DE"]["adapted"]["effect"]
    assert f"| de_DE | {target:.3f} | " in card and f" ({effect:+.3f}".replace("-", "\N{MINUS SIGN}") in card
    report = Path(result["report"]).read_text(encoding="utf-8")
    assert report.count("2 documents</span>") == 2 and f'<td class="num">{target:.3f}</td>' in report

    (tmp_path / "moved").mkdir()
    known.rename(tmp_path / "moved" / "known.txt")
    recipe_data["forgetting"]["test_file"] = str(tmp_path / "moved" / "known.txt")
    run(recipe_data)
    assert states(out) == after, "contents count, not places"
    recipe_data["forgetting"]["max_samples"] = 1
    run(recipe_data)
    changed = {stage for stage, time in states(out).items() if time != after[stage]}
    assert changed == {"plain/seed-1/forgetting", "direct/seed-1/forgetting"}
