"""`check --first-contact`: what is right is ok, and what is deliberately wrong is not."""

from __future__ import annotations

import getpass
import json
import os
import shutil

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoModelForSeq2SeqLM

from polygraft.checks import first_contact
from polygraft.checks.first_contact import Findings, look_at_model
from polygraft.checks.first_contact_vocabulary import SENTENCES, look_at_vocabularies
from polygraft.recipe.reading import parse_recipe

STAGES = ["adapt", "transfer", "adapt_target", "finetune", "evaluate", "generate"]


def statuses(findings):
    return {line.name: line.status for line in findings.lines}


def recipe_of(source, target):
    data = {"train_file": "none.jsonl", "test_file": "none.jsonl", "source_lang": "uk"}  # never opened
    finetune = {"budget": {"steps": 1}}
    return parse_recipe(
        {"name": "first", "source": str(source), "target": str(target), "pairs": data, "finetune": finetune}, "here"
    )


def test_the_block_of_a_tiny_pair_has_all_lines_and_no_names(tiny_xlmr_dir, tiny_mbart_dir, tmp_path):
    seen = []
    block = first_contact.run(recipe_of(tiny_xlmr_dir, tiny_mbart_dir), seen.append)
    assert all(str(line) in block for line in seen)
    found = {line.name: line.status for line in seen}
    for side in ("source", "target"):
        for what in ("load", "ties", "numbers", "tokenizer", "logits"):
            assert found[f"{side}: {what}"] == "ok", block
    assert [line.name for line in seen[-6:]] == STAGES
    assert "failed" not in found.values()
    assert found["target: codes"] == "surprising"  # this one has Danish, too
    last = block.splitlines()[-1]
    assert last.startswith(
        f"{list(found.values()).count('ok')} ok, {list(found.values()).count('surprising')} surprising, 0 failed"
    )
    assert str(tmp_path) not in block and f"/{getpass.getuser()}/" not in block and os.uname().nodename not in block
    assert "target: tiny-mbart\n" in block


def test_names_and_places_are_left_out():
    findings = Findings(("myhost", "alice"))
    findings.add(
        "load", "/home/alice/models/x: no such file on myhost, C:\\Users\\alice\\y, ~/z/w,\nfacebook/mbart-large-50"
    )
    assert findings.lines[0].seen == "…/x: no such file on …, …/y, …/w, facebook/mbart-large-50"


def test_what_cannot_be_loaded_is_a_line_and_the_rest_goes_on(tiny_xlmr_dir, tiny_mbart_dir):
    (tiny_xlmr_dir / "model.safetensors").write_bytes(b"no weights")
    block = first_contact.run(recipe_of(tiny_xlmr_dir, tiny_mbart_dir))
    lines = block.splitlines()
    assert any(line.startswith("failed      source: load") and "cannot load" in line for line in lines)
    assert any(line.startswith("ok          target: logits") for line in lines)
    assert any(line.startswith("failed      adapt ") for line in lines)
    assert any(line.split()[1:2] == ["finetune"] and not line.startswith("failed") for line in lines)


def untied(model):
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach() + 1)
    model.config.tie_word_embeddings = False


def no_number(model):
    model.model.encoder.layers[0].fc1.bias.data[0] = float("nan")


def code_is_mask(model):
    rows = model.model.shared.weight.data
    rows[-54] = rows[-2]  # ar_AR; <mask> stands before Danish


@pytest.mark.parametrize(
    ("spoil", "line", "status"),
    [(untied, "target: ties", "surprising"), (no_number, "target: numbers", "failed"),
     (code_is_mask, "copied rows", "surprising"), (lambda model: None, "copied rows", "ok")],
)  # fmt: skip
def test_spoiled_weights(spoil, line, status, tiny_mbart, tiny_mbart_dir, tiny_xlmr_dir):
    spoil(tiny_mbart)
    state = {name: tensor.clone() for name, tensor in tiny_mbart.state_dict().items()}
    tiny_mbart.save_pretrained(tiny_mbart_dir, state_dict=state)
    findings = Findings(())
    look_at_model(findings, "target", str(tiny_mbart_dir))
    look_at_vocabularies(findings, str(tiny_xlmr_dir), str(tiny_mbart_dir))
    assert statuses(findings)[line] == status, findings.lines


def test_a_wrong_tokenizer_class_is_surprising(tiny_mbart_dir):
    for name in ("tokenizer_config.json", "config.json"):
        content = json.loads((tiny_mbart_dir / name).read_text())
        (tiny_mbart_dir / name).write_text(json.dumps(content | {"tokenizer_class": "MBartTokenizer"}))
    findings = Findings(())
    look_at_model(findings, "target", str(tiny_mbart_dir))
    (line,) = (line for line in findings.lines if line.name == "target: tokenizer")
    assert line.status == "surprising"
    assert (
        line.seen
        == f"MBart50Tokenizer; plain transformers loads MBartTokenizer, and splits 13 of {len(SENTENCES)} unlike"
    )


@pytest.mark.slow
def test_the_published_layouts_are_as_expected(published):
    """The real vocabulary, the published configurations with tiny layers, random weights."""
    seen = []
    block = first_contact.run(recipe_of(published("xlm-roberta-base"), published("mbart-large-50")), seen.append)
    found = {line.name: line for line in seen}
    assert found["rows"].seen == "250,000 same, 1 moved, 1 pad, 52 language code; moved: <mask>"
    assert found["target: codes"].seen == "52, from ar_AR 250,001; <mask> 250,053"
    well = ["rows", "target: codes", "copied rows", "segmentation", "source: logits", "target: logits", "target: ties"]
    assert {found[name].status for name in [*well, "source: ties", "source: tokenizer", "transfer"]} == {"ok"}, block
    assert "failed" not in {line.status for line in seen}, block
    assert found["adapt"].status == found["adapt_target"].status == "surprising"  # random weights know nothing


@pytest.mark.slow
def test_cc25s_layout_is_as_expected(published):
    findings = Findings(())
    look_at_vocabularies(findings, str(published("xlm-roberta-base")), str(published("mbart-large-cc25")))
    found = {line.name: line for line in findings.lines}
    assert found["rows"].seen == "250,000 same, 1 moved, 1 pad, 25 language code; moved: <mask>"
    assert found["target: codes"].seen == "25, from ar_AR 250,001; <mask> 250,026"
    assert {found[name].status for name in ("rows", "target: codes", "copied rows", "segmentation")} == {"ok"}


@pytest.mark.slow
def test_a_prefix_copy_is_noticed(published, tmp_path):
    """What the how-to did: rows copied by id, so that the source's <mask> lies on ar_AR."""
    source, target = published("xlm-roberta-base"), tmp_path / "copied"
    shutil.copytree(published("mbart-large-50"), target)
    rows = AutoModelForMaskedLM.from_pretrained(source).get_input_embeddings().weight.detach()
    model = AutoModelForSeq2SeqLM.from_pretrained(target)
    model.get_input_embeddings().weight.data[: len(rows)] = rows
    model.save_pretrained(target)
    findings = Findings(())
    look_at_vocabularies(findings, str(source), str(target))
    (line,) = (line for line in findings.lines if line.name == "copied rows")
    assert line.status == "surprising"
    assert line.seen.startswith("250,000 of 250,000 rows are the source's own, the source's <mask> lies on ar_AR")
