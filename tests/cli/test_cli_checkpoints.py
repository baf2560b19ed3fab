"""The verbs that change a checkpoint without training it, on the real thing but tiny."""

from __future__ import annotations

import json

import pytest
import torch

from polygraft.models import checkpoints


@pytest.fixture
def text(tmp_path, sentences):
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps({"text": s, "summary": s}) + "\n" for s in sentences[:3]), encoding="utf-8")
    return str(path)


def test_trim_then_restore(invoke, tiny_mbart_dir, text, tmp_path):
    model, small, full = str(tiny_mbart_dir), str(tmp_path / "small"), str(tmp_path / "full")
    columns = ("--text-column", "text", "--text-column", "summary")
    result = invoke("trim", "--model", model, "--train-file", text, *columns, "--output-dir", small)
    assert result.exit_code == 0, result.output
    rows = checkpoints.load_config(small).vocab_size
    assert f"before.rows: {checkpoints.load_config(model).vocab_size}\n" in result.stdout
    assert f"after.rows: {rows}\n" in result.stdout
    result = invoke("restore", "--model", small, "--full", model, "--output-dir", full)
    assert result.exit_code == 0, result.output
    before, after = checkpoints.load_seq2seq(model), checkpoints.load_seq2seq(full)
    assert all(torch.equal(tensor, after.state_dict()[name]) for name, tensor in before.state_dict().items())


def test_trim_needs_the_columns_it_is_told(invoke, tiny_mbart_dir, text, tmp_path):
    options = ("--model", str(tiny_mbart_dir), "--train-file", text, "--text-column", "body")
    result = invoke("trim", *options, "--output-dir", str(tmp_path / "small"))
    assert (result.exit_code, "no column 'body'" in result.output) == (3, True)


def test_add_language(invoke, tiny_mbart_dir, tmp_path):
    options = ("--model", str(tiny_mbart_dir), "--output-dir", str(tmp_path / "new"))
    result = invoke("add-language", *options, "--language", "nn_NO=da")
    assert result.exit_code == 0, result.output
    assert f"nn_NO: {checkpoints.load_config(str(tiny_mbart_dir)).vocab_size}\n" in result.stdout
    for wrong, code in (("nn_NO", 2), ("=da", 2), ("nn_NO=xx", 3)):
        assert invoke("add-language", *options[:3], str(tmp_path / "x"), "--language", wrong).exit_code == code
