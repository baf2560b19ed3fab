"""The model card: what it says, what it hides, and that its code runs."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from polygraft.errors import DataError
from polygraft.report import model_card, write_model_card


def test_it_says_what_the_checkpoint_is(run, record_of):
    folder = run / "detour" / "seed-1"
    card = model_card(folder)
    matter = yaml.safe_load(card.split("---\n")[1])
    assert matter == {
        "language": ["uk"], "library_name": "transformers", "base_model": "mbart",
        "tags": ["mbart", "text2text-generation", "polygraft"],
    }  # fmt: skip
    scores = json.loads((folder / "evaluate" / "scores.json").read_text(encoding="utf-8"))
    loss = scores["systems"]["model"]["uk_UA"]["loss_per_token"]
    versions = record_of(folder / "finetune")["versions"]
    signature = scores["signature"]["chrf++"].replace("|", "\\|")
    for said in (
        "# demo · detour", "Adapting the source (mlm)", "Transfer (repair)", "24 test documents", "`learning_rate`",
        f"| {loss['score']:.3f} | {loss['low']:.3f} to {loss['high']:.3f} | – |", signature,
        f"{scores['systems']['lead']['uk_UA']['chrf++']['score']:.1f} |", versions["transformers"],
        "polygraft from `mbart`; input uk_UA, output uk_UA.",
    ):  # fmt: skip
        assert said in card, said
    assert "**all**" not in card  # one language
    assert str(run.parent) not in card  # an absolute path is true on this machine alone
    assert model_card(folder) == card == (folder / "finetune" / "README.md").read_text(encoding="utf-8")


def test_it_needs_an_evaluated_checkpoint(copy):
    (copy / "plain" / "seed-1" / "evaluate" / "stage.json").unlink()
    with pytest.raises(DataError, match=r"seed-1: is not evaluated yet, .*Run the recipe again"):
        write_model_card(copy / "plain" / "seed-1")


def test_names_cannot_break_its_tables(copy, change, record_of):
    folder = copy / "plain" / "seed-1"
    data = [{**record_of(folder / "finetune")["data"][0], "text_column": "a|b<i>\nc"}]
    change(folder / "finetune" / "stage.json", data=data)
    assert "| `text_column` | a\\|b&lt;i> c |" in model_card(folder)


def test_it_says_that_adapters_are_separate(copy):
    folder = copy / "detour" / "seed-1"
    plain = model_card(folder)
    (folder / "finetune" / "adapter").mkdir()
    config = folder / "finetune" / "adapter" / "adapter_config.json"
    config.write_text(json.dumps({"peft_type": "LORA"}), encoding="utf-8")  # merged into the weights
    assert model_card(folder) == plain
    assert "It is a plain Transformers checkpoint." in plain
    config.write_text(json.dumps({"type": "bottleneck"}), encoding="utf-8")
    card = model_card(folder)
    assert "plain Transformers checkpoint" not in card and "without polygraft" not in card
    assert "loads the model **without** them" in card and "polygraft generate --model path/to/this/folder" in card


def test_its_code_runs_without_polygraft(run):
    folder = run / "detour" / "seed-1"
    code = model_card(folder).split("```python\n")[1].split("```")[0]
    assert len(code.strip().splitlines()) == 6 and "polygraft" not in code
    scope: dict[str, Any] = {}
    exec(code.replace("path/to/this/folder", str(folder / "finetune")), scope)
    assert scope["tokenizer"].src_lang == "uk_UA"  # from the data's "uk"
    assert scope["output"][0][1] == scope["tokenizer"].convert_tokens_to_ids("uk_UA")
    assert scope["output"].shape[1] <= 1 + 8  # max_new_tokens of the evaluation
