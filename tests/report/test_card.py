"""The model card: what it says, what it hides, and that its code runs."""

from __future__ import annotations

import json
from typing import Any

import yaml

from polygraft.report import model_card, write_model_card


def test_model_card_says_what_the_checkpoint_is(tmp_path, make_run):
    folder = make_run(tmp_path / "run", [1]) / "detour" / "seed-1"
    card = model_card(folder / "finetune", folder / "evaluate")
    matter = yaml.safe_load(card.split("---\n")[1])
    assert matter["language"] == ["uk"] and matter["base_model"] == "polygraft/nano-mbart"
    for said in ("# demo · detour", "uk/train.jsonl", "23.1", "22.0 to 24.2", "24.8", "nc:6", "learning_rate",
                 "Adapting the source (mlm)", "Transfer (repair)", "5.23.0", "24 test documents"):  # fmt: skip
        assert said in card, said
    assert "**all**" not in card  # one language
    assert model_card(folder / "finetune", folder / "evaluate") == card
    assert write_model_card(folder / "finetune", folder / "evaluate").read_text(encoding="utf-8") == card


def test_model_card_survives_missing_pieces_and_hides_absolute_paths(tmp_path):
    finetune, evaluate = tmp_path / "a" / "finetune", tmp_path / "a" / "evaluate"
    finetune.mkdir(parents=True)
    assert "has not been evaluated" in model_card(finetune, evaluate)
    inputs = {"/home/someone/models/mine": "0123", "file:/home/someone/a|b<i>.jsonl": "4567"}
    record = {"inputs": inputs, "data": [{"train_file": "/home/someone/a|b<i>.jsonl"}]}
    (finetune / "stage.json").write_text(json.dumps(record), encoding="utf-8")
    card = model_card(finetune, evaluate)
    assert "/home" not in card and "`mine`" in card and "a\\|b&lt;i>.jsonl" in card


def test_model_card_says_that_adapters_are_separate(tmp_path, make_run):
    folder = make_run(tmp_path / "run", [1]) / "detour" / "seed-1"
    plain = model_card(folder / "finetune", folder / "evaluate")
    (folder / "finetune" / "adapter").mkdir()
    config = folder / "finetune" / "adapter" / "adapter_config.json"
    config.write_text(json.dumps({"peft_type": "LORA"}), encoding="utf-8")  # merged into the weights
    assert model_card(folder / "finetune", folder / "evaluate") == plain
    assert "It is a plain Transformers checkpoint." in plain
    config.write_text(json.dumps({"type": "bottleneck"}), encoding="utf-8")
    card = model_card(folder / "finetune", folder / "evaluate")
    assert "plain Transformers checkpoint" not in card and "without polygraft" not in card
    assert "loads the model **without** them" in card and "polygraft generate --model path/to/this/folder" in card


def test_model_card_code_runs_without_polygraft(tmp_path, tiny_mbart_dir, make_run):
    folder = make_run(tmp_path / "run", [1]) / "direct" / "seed-1"
    for path in tiny_mbart_dir.iterdir():
        path.rename(folder / "finetune" / path.name)
    card = model_card(folder / "finetune", folder / "evaluate")
    code = card.split("```python\n")[1].split("```")[0]
    assert len(code.strip().splitlines()) == 6 and "polygraft" not in code
    scope: dict[str, Any] = {}
    exec(code.replace("path/to/this/folder", str(folder / "finetune")), scope)
    assert scope["tokenizer"].src_lang == "uk_UA"  # from the data's "uk"
    assert scope["output"][0][1] == scope["tokenizer"].convert_tokens_to_ids("uk_UA")
    assert scope["output"].shape[1] <= 1 + 24  # max_new_tokens of the evaluation
