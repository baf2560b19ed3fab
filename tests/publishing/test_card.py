"""The model card: what it says, what it hides, that the hub's parser reads it, and that its code runs."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results

import polygraft
from polygraft.errors import DataError
from polygraft.inference.engine import generate_texts
from polygraft.inference.generate import encode_sources
from polygraft.models.checkpoints import load_tokenizer
from polygraft.publishing.card import model_card, write_model_card
from polygraft.publishing.push import push
from polygraft.runs.records import run_stage
from polygraft.settings import Bottleneck, Export, Generate, PairData
from polygraft.stages import export as exporting

REPO = "me/uk"


@pytest.fixture
def model(copy) -> Path:
    return copy / "detour" / "seed-1" / "finetune"


def code_of(card: str) -> str:
    return card.split("```python\n")[1].split("```")[0]


def run_it(card: str, place: Path, model: Path, monkeypatch, name: str) -> dict[str, Any]:
    """Run the card's code as it stands, where what it names is the model."""
    (place / name).parent.mkdir(parents=True)
    (place / name).symlink_to(model)
    monkeypatch.chdir(place)
    scope: dict[str, Any] = {}
    exec(code_of(card), scope)
    return scope


def test_it_says_what_the_checkpoint_is(model):
    card = model_card(model)
    scores = json.loads((model.parent / "evaluate" / "scores.json").read_text(encoding="utf-8"))
    loss = scores["systems"]["model"]["uk_UA"]["loss_per_token"]
    versions = json.loads((model / "stage.json").read_text(encoding="utf-8"))["versions"]
    signature = scores["signature"]["chrf++"].replace("|", "\\|")
    for said in (
        "# tiny · detour", "Adapting the source (mlm)", "Transfer (repair)", "12 test documents", "`learning_rate`",
        f"| {loss['score']:.3f} | {loss['low']:.3f} to {loss['high']:.3f} | – |", signature,
        f"{scores['systems']['lead']['uk_UA']['chrf++']['score']:.1f} |", versions["transformers"],
        "polygraft from `mbart` (arm 'detour', seed 1, of the recipe 'tiny'); input uk_UA, output uk_UA.",
        "Energy and emissions were not measured.",
    ):  # fmt: skip
        assert said in card, said
    assert "**all**" not in card  # one language


def test_the_hubs_own_parser_reads_it(model):
    text = model_card(model, repo_id=REPO)
    card = ModelCard(text)
    assert str(card) == text
    data = card.data
    assert (data.language, data.library_name, data.pipeline_tag) == (["uk"], "transformers", "summarization")
    assert data.tags == ["mbart", "polygraft"] and data.get("base_model") is None  # a folder is no model of the hub
    matter = yaml.safe_load(text.split("---\n")[1])
    name, results = model_index_to_eval_results(matter["model-index"])
    assert name == REPO and results == data.eval_results
    assert eval_results_to_model_index(name, results) == matter["model-index"]
    scores = json.loads((model.parent / "evaluate" / "scores.json").read_text(encoding="utf-8"))
    found = {result.metric_name: result for result in results}
    assert set(found) == {"Loss", "chrF++", "BLEU", "ROUGE-1", "ROUGE-2", "ROUGE-L", "ROUGE-Lsum"}
    score = scores["systems"]["model"]["uk_UA"]["chrf++"]
    result = found["chrF++"]
    assert (result.task_type, result.metric_type, result.dataset_config) == ("summarization", "chrf", "uk_UA")
    assert result.metric_value == round(score["score"], 4)
    assert result.metric_args == {
        "signature": scores["signature"]["chrf++"], "low": round(score["low"], 4), "high": round(score["high"], 4),
        "confidence": 0.95,
    }  # fmt: skip


def test_the_same_files_give_the_same_card_wherever_they_lie(model, run, tmp_path):
    there = run / "detour" / "seed-1" / "finetune"
    assert model_card(there) == model_card(there) == (there / "README.md").read_text(encoding="utf-8")
    assert model_card(model) == model_card(there)
    assert "secretuser" not in model_card(there) and "/gone" not in model_card(model)


def test_it_has_the_verdict_of_its_run_and_no_other(model, copy, change):
    said = json.loads((copy / "verdict.json").read_text(encoding="utf-8"))["sentence"]
    assert f"> {' '.join(said.split())}" in model_card(model).replace("&amp;", "&").replace("&lt;", "<")
    change(copy / "verdict.json", seeds=[1, 2])  # of before the recipe was changed
    assert "Did the transfer help?" not in model_card(model)


def test_it_needs_an_evaluated_checkpoint(model):
    (model.parent / "evaluate" / "stage.json").unlink()
    with pytest.raises(DataError, match=r"seed-1/finetune: is not evaluated yet, .*Run the recipe again"):
        model_card(model)


def test_a_card_of_ones_own_stays(model):
    path = model / "README.md"
    text = path.read_text(encoding="utf-8")
    path.write_text(text + "More.\n", encoding="utf-8")
    write_model_card(model)
    assert path.read_text(encoding="utf-8") == text
    own = "".join(line for line in text.splitlines(keepends=True) if "Written by polygraft" not in line)
    path.write_text(own, encoding="utf-8")
    write_model_card(model)
    assert path.read_text(encoding="utf-8") == own


def test_names_cannot_break_its_tables_and_paths_are_cut(model, change):
    record = json.loads((model / "stage.json").read_text(encoding="utf-8"))
    data = [{**record["data"][0], "text_column": "a|b<i>\nc"}]
    settings = {**record["settings"], "where": ["x", "/home/jo/x.txt", "../jo/y.txt", "~/z", r"C:\jo\w"]}
    change(model / "stage.json", data=data, settings=settings)
    card = model_card(model)
    assert "| `text_column` | a\\|b&lt;i> c |" in card
    assert "| `where` | x, x.txt, y.txt, z, w |" in card


def test_it_says_that_adapters_are_separate(model):
    plain = model_card(model)
    (model / "adapter").mkdir()
    config = model / "adapter" / "adapter_config.json"
    config.write_text(json.dumps({"peft_type": "LORA"}), encoding="utf-8")  # merged into the weights
    assert model_card(model) == plain
    assert "It is a plain Transformers checkpoint." in plain
    config.write_text(json.dumps({"type": "bottleneck", "adapters": {"uk": Bottleneck().model_dump()}}))
    card = model_card(model)
    assert "plain Transformers checkpoint" not in card and "without polygraft" not in card
    assert "loads the model **without** them" in card and "polygraft generate --model path/to/this/folder" in card
    assert ModelCard(card).data.library_name == "polygraft"


@pytest.mark.parametrize(("repo", "name"), [(None, "path/to/this/folder"), (REPO, REPO)])
def test_its_code_runs_without_polygraft(run, tmp_path, monkeypatch, repo, name):
    model = run / "detour" / "seed-1" / "finetune"
    card = model_card(model, repo_id=repo)
    assert len(code_of(card).strip().splitlines()) == 6 and "polygraft" not in code_of(card)
    scope = run_it(card, tmp_path, model, monkeypatch, name)
    assert scope["tokenizer"].src_lang == "uk_UA"  # from the data's "uk"
    assert scope["output"][0][1] == scope["tokenizer"].convert_tokens_to_ids("uk_UA")
    assert scope["output"].shape[1] <= 1 + 8  # max_new_tokens of the evaluation


# ---------------------------------------------------------------- what it cannot say


def test_its_limits(model, change):
    card = model_card(model)
    limits = card[card.index("## Limits") : card.index("## Licences")]
    for said in ("12 test documents", "this is one model of one seed", "It was made for uk_UA.", "after 32 tokens"):
        assert said in limits, said
    codes = json.loads((model / "tokenizer_config.json").read_text(encoding="utf-8"))["extra_special_tokens"]
    assert f"codes of {len(codes) - 1} other languages; what the model makes of them was not measured" in limits
    systems = json.loads((model.parent / "evaluate" / "scores.json").read_text(encoding="utf-8"))["systems"]
    for score, said in {
        20.0: "it falls short of the lead baseline: 20.0 (interval 19.0 to 21.0) against 30.0, which takes no model. "
        "By this score it has shown no use yet.",
        29.5: "it cannot be told from the lead baseline: 29.5",
        40.0: "it is above the lead baseline: 40.0 (interval 39.0 to 41.0) against 30.0, which takes no model.\n",
    }.items():
        for languages in (systems["model"], systems["lead"]):
            for scores in languages.values():
                middle = score if languages is systems["model"] else 30.0
                scores["chrf++"] = {"score": middle, "low": middle - 1, "high": middle + 1}
        change(model.parent / "evaluate" / "scores.json", systems=systems)
        assert said in model_card(model), said


# ---------------------------------------------------------------- outside a run


def test_a_checkpoint_of_its_own_is_described_by_its_stages(model, tmp_path):
    """As the verbs leave them: `finetune` and beside it `evaluate`; without that nothing is known of its outputs."""
    place = tmp_path / "mine"
    for name in ("adapt", "transfer", "finetune"):
        shutil.copytree(model.parent / name, place / name)
    card = model_card(place / "finetune")
    assert "# mine" in card and "| transfer (repair) |" in card.lower() and "model-index" not in card
    assert "It was not evaluated: nothing is known of the quality of its outputs." in card
    assert "input uk_UA, output uk_UA" in card and "| `xlmr` | model |" in card and "| `mbart` | model |" in card
    shutil.copytree(model.parent / "evaluate", place / "evaluate")
    assert ModelCard(model_card(place / "finetune")).data.eval_results
    path = place / "finetune" / "config.json"
    path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")  # another checkpoint
    assert "It was not evaluated" in model_card(place / "finetune")


def test_what_nothing_is_known_of(tiny_mbart_dir):
    with pytest.raises(DataError, match=r"has no stage.json, .*Write a README.md for it yourself"):
        model_card(tiny_mbart_dir)


# ---------------------------------------------------------------- other kinds


def test_its_code_reads_an_added_language_as_polygraft_does(run, tmp_path, monkeypatch):
    """As whose source a plain tokenizer's class takes no code that was added."""
    languages = {"source_lang": "da_DK", "target_lang": "uk_UA"}
    pairs = {"train_file": str(run.parents[1] / "pairs.jsonl"), **languages}
    tune = {
        "budget": {"steps": 1},
        "learning_rate": 1e-3,
        "max_target_length_tokens": 16,
        "max_source_length_tokens": 32,
    }
    polygraft.finetune(run.parents[1] / "mbart", pairs, output_dir=tmp_path / "finetune", settings=tune)
    scope = run_it(
        model_card(tmp_path / "finetune"), tmp_path, tmp_path / "finetune", monkeypatch, "path/to/this/folder"
    )
    tokenizer = load_tokenizer(str(tmp_path / "finetune"))
    assert scope["batch"]["input_ids"].tolist() == encode_sources(tokenizer, ["Put your text here."], ["da_DK"], 64)
    assert scope["output"][0][1] == tokenizer.convert_tokens_to_ids("uk_UA")


def test_what_was_exported_has_a_card_whose_code_runs(run, tmp_path, monkeypatch):
    original = run / "detour" / "seed-1" / "finetune"
    pairs = PairData(validation_file=str(run.parents[1] / "pairs.jsonl"))
    settings = Export(quantization="int8", num_beams=1, max_new_tokens=8)
    done = polygraft_export(settings, original, pairs, tmp_path / "int8")
    card = model_card(tmp_path / "int8")
    data = ModelCard(card).data
    assert data.library_name == "ctranslate2" and data.eval_results is None  # the scores are of the original
    assert "It is written for CTranslate2 (int8)." in card
    assert f"| identical outputs | {done['identical_outputs']} of 12 |" in card
    assert "Of the checkpoint that it was made from" in card
    scope = run_it(card, tmp_path / "here", tmp_path / "int8", monkeypatch, "path/to/this/folder")
    how = Generate(num_beams=1, max_new_tokens=8)
    ours = generate_texts(str(tmp_path / "int8"), ["Put your text here."], None, None, how)
    tokenizer = scope["tokenizer"]
    ids = tokenizer.convert_tokens_to_ids(scope["found"][0].hypotheses[0])
    assert tokenizer.decode(ids, skip_special_tokens=True) == ours[0][0]
    found = push(tmp_path / "int8", REPO, dry_run=True)
    assert {one.path for one in found.uploads} == {
        "README.md", "config.json", "export.json", "model.bin", "shared_vocabulary.json", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip


def polygraft_export(settings: Export, model: Path, pairs: PairData, folder: Path) -> dict[str, Any]:
    work = partial(exporting.run, settings, str(model), pairs, folder)
    return run_stage("export", folder, settings, [str(model), pairs], None, work)["result"]
