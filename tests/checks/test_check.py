"""The whole examination of a recipe, on tiny models."""

from __future__ import annotations

import errno
import importlib.metadata
import json
import re
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from transformers import T5Config, T5ForConditionalGeneration

from polygraft import checks, machine
from polygraft.checks import models, stages
from polygraft.cli.check import text
from polygraft.data.sources import Source
from polygraft.errors import CheckpointError, DataError
from polygraft.recipe.reading import parse_recipe


@pytest.fixture
def data(tmp_path, tiny_xlmr_dir, tiny_mbart_dir, sentences):
    rows = [{"text": f"{a} {b} ({i})", "summary": a, "lang": "uk"} for i, a in enumerate(sentences) for b in sentences]
    for name, part in {"train": rows[:100], "validation": rows[100:120], "test": rows[120:]}.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in part))
    (tmp_path / "text.txt").write_text("\n".join(sentences * 3))
    short = {"budget": {"steps": 100}, "per_device_train_batch_size": 4, "precision": "fp32"}
    return {
        "name": "tiny", "output_dir": str(tmp_path / "out"), "source": str(tiny_xlmr_dir), "seeds": [1, 2],
        "target": str(tiny_mbart_dir), "text": {"train_file": str(tmp_path / "text.txt"), "lang": "uk"},
        "pairs": {f"{n}_file": str(tmp_path / f"{n}.jsonl") for n in ("train", "validation", "test")} | {
            "source_lang": "uk"},
        "finetune": short, "evaluate": {"num_beams": 2, "max_new_tokens": 4},
        "arms": {
            "plain": {},
            "direct": {"transfer": {"mode": "recentre"}, "adapt_target": {**short, "trim_vocabulary": True}},
            "detour": {"adapt": short, "transfer": {"mode": "repair"}, "adapt_target": short},
        },
    }  # fmt: skip


@pytest.fixture(autouse=True)
def quick_probe(monkeypatch):
    """The machine's speed is measured elsewhere; a second per test is saved here."""
    from polygraft.checks.speed import Probe

    def probe(config, arithmetic, baseline_bytes):
        return Probe(1e11, 1e10, machine.available_bytes(), baseline_bytes)

    monkeypatch.setattr(stages, "probe_machine", probe)


def examine(data):
    return checks.run(parse_recipe(data, "test"))


def test_report_of_a_good_recipe(data, tiny_mbart, tiny_xlmr):
    report = examine(data)
    assert {arm: [need.stage for need in needs] for arm, needs in report.stages.items()} == {
        "plain": ["finetune", "evaluate"],
        "direct": ["transfer", "adapt_target", "finetune", "evaluate"],
        "detour": ["adapt", "transfer", "adapt_target", "finetune", "evaluate"],
    }
    assert {m.role: (m.parameters, m.rows) for m in report.models} == {
        "target": (tiny_mbart.num_parameters(), tiny_mbart.config.vocab_size),
        "source": (tiny_xlmr.num_parameters(), tiny_xlmr.config.vocab_size),
    }
    assert report.stages["detour"][2].parameters == tiny_mbart.num_parameters()
    assert report.stages["plain"][0] == report.stages["direct"][2]  # estimated once
    assert report.problems == ()
    weights = 4 * (3 * tiny_mbart.num_parameters() + 4 * tiny_mbart.num_parameters() + tiny_xlmr.num_parameters())
    assert report.disk_bytes > 2 * (weights - 4 * tiny_mbart.num_parameters())
    assert json.loads(json.dumps(report.to_json()))["stages"]["plain"][0]["stage"] == "finetune"
    shown = text(report)
    for said in ("text.train", "MBart50Tokenizer", "detour  adapt_target", "tiny: ok. 3 arm(s), 2 seed(s)"):
        assert said in shown


def test_forgetting_is_priced_by_its_documents_and_checkpoints(data, tmp_path):
    (tmp_path / "known.txt").write_text("Das Paket enthält die Dateien für Entwickler.\n" * 20)
    data["forgetting"] = {"test_file": str(tmp_path / "known.txt"), "lang": "de", "max_samples": 5}
    few = examine(data)
    plain, direct = (few.stages[arm][-1] for arm in ("plain", "direct"))
    assert plain.stage == direct.stage == "forgetting" and plain.seconds > 0
    assert direct.flops == 1.5 * plain.flops  # the target as it was, adapted, fine-tuned; and without the second
    data["forgetting"]["max_samples"] = 10
    assert examine(data).stages["plain"][-1].flops == 2 * plain.flops
    data["forgetting"]["lang"] = "el"
    with pytest.raises(DataError, match=r"forgetting\.lang: language 'el'"):
        examine(data)


def counting(monkeypatch, owner, name, what):
    """Count the calls of a function by what they are about."""
    real, calls = getattr(owner, name), Counter()

    def counted(*args, **kwargs):
        calls[what(*args)] += 1
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, counted)
    return calls


def test_nothing_is_read_loaded_or_counted_twice(data, tmp_path, monkeypatch):
    """Whatever arms, seeds and stages have in common; nor are stages imported, which takes most of a second."""
    data["arms"]["longer"] = {"adapt_target": {**data["finetune"], "budget": {"steps": 200}}}
    data["forgetting"] = {"test_file": str(tmp_path / "known.txt"), "lang": "de"}
    (tmp_path / "known.txt").write_text("Das Paket enthält die Dateien für Entwickler.\n" * 20)
    read = counting(monkeypatch, Source, "rows", lambda source, *_: Path(source.name).name)
    loaded = counting(monkeypatch, models.checkpoints, "load_tokenizer", lambda name: name)
    tokenized = counting(monkeypatch, stages, "tokenize", lambda tokenizer, texts: (tokenizer.name_or_path, *texts))
    probed = counting(
        monkeypatch, stages, "probe_machine", lambda config, arithmetic, _: (config.model_type, arithmetic)
    )
    passes = counting(monkeypatch, stages, "measure_pass", lambda config, shape, *_: (config.model_type, shape))
    examine(data)
    assert read == dict.fromkeys(["text.txt", "known.txt", "train.jsonl", "validation.jsonl", "test.jsonl"], 1)
    assert loaded == dict.fromkeys([data["source"], data["target"]], 1)
    assert probed == dict.fromkeys([("xlm-roberta", "fp32"), ("mbart", "fp32")], 1)
    assert set(tokenized.values()) == {1} and len(tokenized) == 1 + 1 + 1 + 4  # text by both, known, pairs' columns
    # adapt, adapt_target (the text needs all rows of so small a vocabulary), finetune: 512 documents would fit
    assert list(passes.values()) == [1, 1, 1]


def test_a_second_pass_where_the_first_does_not_tell(data, monkeypatch):
    data["arms"] = {"plain": {}}
    passes = counting(monkeypatch, stages, "measure_pass", lambda config, shape, *_: shape.batch)
    needed = examine(data).memory_bytes
    assert passes == {4: 1}
    monkeypatch.setattr(machine, "available_bytes", lambda: int(1.3 * needed))
    (proposed,) = {need.proposed_batch_size for need in examine(data).stages["plain"] if need.stage == "finetune"}
    assert passes == {4: 2, 1: 1} and proposed >= 4


def test_a_diagnosis_is_priced_by_its_states_and_placebos(data):
    assert examine(data).diagnosis == {}
    plain = examine(data)
    data["diagnose"] = {"max_samples": 4, "placebos": ["recentre", "random", "untuned"]}
    report = examine(data)
    found = {name: [need.stage for need in needs] for name, needs in report.diagnosis.items()}
    placebo = ["transfer", "adapt_target", "diagnose"]
    assert found == {
        "plain": ["diagnose"], "direct": ["diagnose"], "detour": ["diagnose"], "detour+recentre": placebo,
        "detour+random": placebo, "detour+untuned": placebo,
    }  # fmt: skip
    measured = {name: needs[-1].flops for name, needs in report.diagnosis.items()}
    assert measured["direct"] == measured["detour+random"] == 3 * measured["plain"]  # as it was, and after two stages
    once = sum(need.seconds for needs in report.diagnosis.values() for need in needs)
    assert report.seconds == pytest.approx(plain.seconds + once)  # with the first seed alone
    assert "detour+random" in text(report)


def test_a_sample_that_is_decoded_takes_its_time(data):
    def seconds(**changes):
        data["finetune"] = {**data["finetune"], **changes}
        return next(need for need in examine(data).stages["plain"] if need.stage == "finetune").seconds

    sample = {"metric_for_best_model": "chrf++", "generation_max_length": 5, "generation_max_samples": 10}
    assert seconds() < seconds(**sample) < seconds(generation_max_samples=20) < seconds(generation_max_length=9)


def test_what_is_left_of_a_common_budget(data):
    how = {"per_device_train_batch_size": 4, "precision": "fp32"}
    data["arms"] = {
        "direct": {"transfer": {"mode": "recentre"}, "adapt_target": how},
        "detour": {"adapt": how | {"budget": {"flops": 2e9}}, "transfer": {"mode": "repair"}, "adapt_target": how},
    }
    data["adaptation_budget"] = {"flops": 6e9}
    report = examine(data)
    (recentred, direct, *_), (adapted, repaired, detour, *_) = report.stages.values()
    assert direct.flops + recentred.flops == pytest.approx(6e9)
    assert adapted.flops == pytest.approx(2e9)
    assert adapted.flops + repaired.flops + detour.flops == pytest.approx(6e9)
    assert (adapted.budget, direct.budget) == ("2e+09 flops", "6e+09 flops (what is left)")
    assert not any("nothing is left" in warning for warning in report.warnings)
    assert "6e+09 flops (what is left)" in text(report)
    data["arms"]["detour"]["adapt"]["budget"] = {"epochs": 1e6}  # what that costs is only known here
    report = examine(data)
    (warning,) = [warning for warning in report.warnings if "nothing is left" in warning]
    assert warning.startswith("arm detour, by estimate: nothing is left for adapt_target of adaptation_budget = 6e+09")
    assert [need.stage for need in report.stages["detour"]] == ["adapt", "transfer", "finetune", "evaluate"]


def test_languages_that_the_target_lacks(data):
    data["pairs"]["source_lang"] = "be"
    with pytest.raises(DataError, match=r"pairs\.source_lang: language 'be' is not one of"):
        examine(data)
    data["add_languages"] = {"be_BY": "uk"}
    assert examine(data).stages["plain"][0].stage == "add_languages"


def test_checkpoints_that_cannot_be_used_are_all_named(data, tmp_path):
    T5ForConditionalGeneration(
        T5Config(vocab_size=50, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    ).save_pretrained(tmp_path / "t5")
    data["target"], data["source"] = str(tmp_path / "t5"), str(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"(?s)'t5'.*nowhere: no such folder"):
        examine(data)


def test_hub_names_are_refused_offline_unless_cached(data):
    data["target"] = "somebody/mbart"
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE is set"):
        examine(data)


def test_weights_of_a_pinned_revision_are_looked_for_there(monkeypatch):
    asked = []

    def look(hub, file, revision):
        asked.append((hub, revision))
        return "model.safetensors"

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", look)
    models._assert_published("owner/model@v1")
    models._assert_published("owner/model")
    assert asked == [("owner/model", "v1"), ("owner/model", None)]


def test_a_source_that_no_arm_reads_is_not_opened(data):
    data["source"] = "somebody/xlmr"
    data["arms"] = {"direct": {"transfer": {"mode": "recentre"}}}
    assert [model.role for model in examine(data).models] == ["target"]


def test_lengths_beyond_the_positions(data):
    data["finetune"] = {**data["finetune"], "max_source_length_tokens": 100, "max_target_length_tokens": 60}
    (warning,) = {w for w in examine(data).warnings if "arm plain: finetune" in w}
    assert warning.startswith("arm plain: finetune.max_source_length_tokens = 100, but ")
    assert warning.endswith("has 64 positions: 64 are used.")


def test_too_little_memory(data, monkeypatch):
    monkeypatch.setattr(machine, "available_bytes", lambda: 10**6)
    problems = examine(data).problems
    assert any(p.startswith("arm plain, finetune: needs about") and "0.0 GB are free" in p for p in problems)
    assert any("trim_vocabulary to true" in p for p in problems)


def test_too_little_disk(data, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    (problem,) = examine(data).problems
    written, free = re.search(r": ([\d.]+) GB will be written, and ([\d.]+) GB are free", problem).groups()
    assert float(written) > float(free)


@pytest.mark.parametrize("wrong", ["read-only", "a name too long", "a file in the way"])
def test_folders_that_cannot_be_written(data, tmp_path, monkeypatch, wrong):
    """What a run would find out when it saves; nothing is left of having tried."""
    if wrong == "a name too long":
        data["output_dir"] = str(tmp_path / ("x" * 300))
    elif wrong == "a file in the way":
        (tmp_path / "file").write_text("")
        data["output_dir"] = str(tmp_path / "file" / "out")
    else:  # root may write anywhere, so that permissions would show nothing

        def refuse(*args, **kwargs):
            raise OSError(errno.EROFS, "Read-only file system")

        monkeypatch.setattr(checks.tempfile, "TemporaryDirectory", refuse)
    before = sorted(tmp_path.rglob("*"))
    said = [problem for problem in examine(data).problems if "nothing can be written there" in problem]
    assert len(said) == 1
    assert "Choose another output_dir." in said[0]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_generation_config_that_cannot_be_saved_is_noted(data):
    path = Path(data["target"]) / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"temperature": 0.7, "do_sample": False}))
    assert any("left out, and not saved: temperature = 0.7." in warning for warning in examine(data).warnings)


def test_versions_that_are_too_old(data, monkeypatch):
    installed = importlib.metadata.version
    monkeypatch.setattr(checks, "version", lambda name: "4.57.0" if name == "transformers" else installed(name))
    (problem,) = examine(data).problems
    assert problem == "transformers 4.57.0 is installed, but polygraft needs >=5.6."


def test_verb(data, tmp_path, invoke, monkeypatch):
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(data))
    result = invoke("check", str(path), "--json")
    assert result.exit_code == 0, result.output
    assert set(json.loads(result.stdout)["stages"]) == {"plain", "direct", "detour"}
    monkeypatch.setattr(machine, "available_bytes", lambda: 10**6)
    result = invoke("check", str(path))
    assert result.exit_code == 1
    assert "PROBLEMS\n  arm detour, adapt: needs about" in result.stdout


def test_text_that_a_tokenizer_cannot_write_is_counted(data, tmp_path):
    """By the tokenizer of each model that will read it; where it can write none of it, nothing is worth a run."""
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    chinese = "委员会于三月三日开会并通过了预算案决议。"
    data["arms"] = {"direct": data["arms"]["direct"]}
    rows[:7] = [{**row, "summary": chinese} for row in rows[:7]]
    (tmp_path / "train.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (warning,) = [one for one in examine(data).warnings if "<unk>" in one]
    assert warning.startswith(f"{tmp_path}/train.jsonl: 'summary' is mostly <unk> in 7 of 100 rows: the tokenizer of ")
    (tmp_path / "text.txt").write_text(f"{chinese}\n" * 30)
    with pytest.raises(DataError, match=r"text\.txt: 'text' is mostly <unk> in 30 of 30 rows"):
        examine(data)
