"""`polygraft compare` on files that plain transformers and json wrote, and its command line."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from polygraft.data.reading import read_rows
from polygraft.nano import bundled


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three files per system: the bundled model, sampling at two temperatures."""
    rows = read_rows("polygraft/sample/pl/test.parquet", ["text", "summary"])[:24]
    folder = tmp_path_factory.mktemp("outputs")
    path = bundled("polygraft/nano-mbart")
    model = AutoModelForSeq2SeqLM.from_pretrained(path)
    tokenizer = AutoTokenizer.from_pretrained(path, src_lang="pl_PL", tgt_lang="pl_PL")
    inputs = tokenizer([row["text"] for row in rows], return_tensors="pt", padding=True, truncation=True, max_length=64)
    for system, temperature in (("cool", 0.5), ("hot", 2.0)):
        (folder / system).mkdir()
        for seed in (1, 2, 3):
            torch.manual_seed(seed)
            written = model.generate(
                **inputs, do_sample=True, temperature=temperature, max_new_tokens=20, num_beams=1,
                forced_bos_token_id=tokenizer.convert_tokens_to_ids("pl_PL"),
            )  # fmt: skip
            with open(folder / system / f"{seed}.jsonl", "w", encoding="utf-8") as file:
                for row, text in zip(rows, tokenizer.batch_decode(written, skip_special_tokens=True), strict=True):
                    file.write(
                        json.dumps({"prediction": text, "target": row["summary"], "document": row["text"]}) + "\n"
                    )
    return folder


def files(folder, system):
    return sorted(map(str, (folder / system).glob("*.jsonl")))


COLUMNS = ["--reference-column", "target", "--source-column", "document", "--lang", "pl"]


def test_compare(folder, invoke):
    """A shell makes three words of cool/*.jsonl, and three of hot/*.jsonl."""
    html = folder / "page.html"
    arguments = [*files(folder, "cool"), "--against", *files(folder, "hot"), *COLUMNS]
    result = invoke("compare", *arguments, "--html", str(html), "--metric", "repeats")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith(("'cool' hurt: it is worse than 'hot' (Repeats", "Not enough evidence"))
    head = next(line for line in lines if line.startswith("SCORE"))
    assert head.split() == ["SCORE", "cool", "hot", "difference", "interval", "level", "word"]
    shown = {line.split("  ")[0] for line in lines}
    assert {"chrF++", "BLEU", "ROUGE-1", "ROUGE-Lsum", "Length", "Copied", "Wrong language", "Repeats"} <= shown
    assert any(line.startswith("Of the references: Copied 0.") for line in lines)
    assert any(line.startswith("chrF++: nrefs:1|bs:1000|seed:12345|") for line in lines)
    assert html.read_text(encoding="utf-8").startswith("<!doctype html>")
    found = json.loads(invoke("compare", *arguments, "--json").stdout)
    assert found["primary"]["seeds_per_arm"] == 3 and found["primary"]["documents"] == 24
    assert found["primary"]["metric"] == "chrf++"
    assert len(found["secondary"]) == 9


def test_score(folder, invoke):
    result = invoke("score", *files(folder, "hot"), *COLUMNS)
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "24 documents, 3 files"
    assert lines[2].split() == ["SCORE", "hot", "interval", "files", "references"]
    found = json.loads(invoke("score", *files(folder, "hot"), *COLUMNS, "--json").stdout)
    assert len(found["scores"]["bleu"]["by_file"]) == 3


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--against", "b.jsonl"], 2, "files: no file is named"),
        (["a.jsonl"], 2, "against: no file is named"),
        (["none.jsonl", "--against", "b.jsonl"], 3, "none.jsonl: no such file"),
        (["none.jsonl", "--against", "b.jsonl", "--metric", "x"], 3, "none.jsonl: no such file"),
    ],
)
def test_mistakes(invoke, arguments, code, said):
    result = invoke("compare", *arguments)
    assert (result.exit_code, said in result.stderr) == (code, True), result.stderr
