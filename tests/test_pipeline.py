"""Resume by fingerprint: what is done is not run again, and a change reruns just what depends on it."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from polygraft import pipeline
from polygraft.errors import PolygraftError
from polygraft.recipe_io import arm_recipes, dump_recipe, parse_recipe
from polygraft.settings import Evaluate


@pytest.fixture
def recipe_data(tmp_path, tiny_xlmr_dir, tiny_mbart_dir, sentences):
    rows = [{"text": f"{a} {b}", "summary": a} for a in sentences for b in sentences[:3]]
    for name, part in {"train": rows[:24], "validation": rows[24:30], "test": rows[30:]}.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in part))
    (tmp_path / "text.txt").write_text("\n".join(sentences * 2))
    short = {"budget": {"steps": 2}, "per_device_train_batch_size": 4, "precision": "fp32"}
    return {
        "name": "tiny", "output_dir": str(tmp_path / "out"), "source": str(tiny_xlmr_dir),
        "target": str(tiny_mbart_dir), "text": {"train_file": str(tmp_path / "text.txt"), "lang": "uk"},
        "pairs": {f"{n}_file": str(tmp_path / f"{n}.jsonl") for n in ("train", "validation", "test")} | {
            "source_lang": "uk"},
        "finetune": short, "evaluate": {"num_beams": 1, "max_new_tokens": 4},
        "arms": {
            "plain": {},
            "direct": {"transfer": {"mode": "recentre"}, "adapt_target": short},
            "detour": {"adapt": short, "transfer": {"mode": "repair"}, "adapt_target": short},
        },
        "verdict": {"treatment": "detour", "control": "direct", "resamples": 100},
    }  # fmt: skip


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


def test_arms_share_equal_stages(recipe_data, tmp_path):
    recipe_data["arms"] = {"one": recipe_data["arms"]["direct"], "two": recipe_data["arms"]["direct"]}
    del recipe_data["verdict"]
    calls = []
    real = pipeline.write_record

    def counting(folder, record):
        if record["status"] == "running":
            calls.append(f"{folder.parent.parent.name}/{folder.name}")
        real(folder, record)

    pipeline.write_record = counting
    try:
        run(recipe_data)
    finally:
        pipeline.write_record = real
    assert calls == [f"one/{stage}" for stage in ("transfer", "adapt_target", "finetune", "evaluate")]
    assert set(states(tmp_path / "out" / "tiny")) >= {"two/seed-1/finetune", "two/seed-1/evaluate"}


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
        pipeline.run_stage("evaluate", out, Evaluate(), [], None, fail)
    assert pipeline.read_record(out)["status"] == "running"
    assert pipeline.run_stage("evaluate", out, Evaluate(), [], None, work)["result"] == {"value": 1}
    assert calls == [True], "the same stage goes on in its own folder"
    pipeline.run_stage("evaluate", out, Evaluate(), [], None, work)
    assert calls == [True]
    pipeline.run_stage("evaluate", out, Evaluate(num_beams=2), [], None, work)
    assert calls == [True, False], "other settings start in an empty folder"


def test_nothing_of_the_users_is_overwritten(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(PolygraftError, match="was not written by polygraft"):
        pipeline.run_stage("evaluate", tmp_path, Evaluate(), [], None, dict)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    out = tmp_path / "done"
    pipeline.run_stage("evaluate", out, Evaluate(), [], None, dict)
    with pytest.raises(PolygraftError, match="other settings"):
        pipeline.run_stage("evaluate", out, Evaluate(num_beams=2), [], None, dict, replace=False)


def test_broken_record_is_no_record(tmp_path):
    (tmp_path / "stage.json").write_text('{"status": "done", "finger')
    assert pipeline.read_record(tmp_path) is None


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
