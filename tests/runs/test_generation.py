"""Outputs for files: every format, in order; interrupted anywhere and gone on with, no row is lost or made twice."""

from __future__ import annotations

import csv
import gzip
import io
import json
import lzma
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from polygraft.errors import DataError, PolygraftError
from polygraft.inference import engine
from polygraft.runs.generation import PART_ROWS, generate_file
from polygraft.settings import Generate, InputData

LANGS = {"source_lang": "uk", "target_lang": "en"}
ROWS = [{"n": str(i), "text": f'ряд {i}, "a"', "note": "x\ty" if i % 2 else ""} for i in range(7)]


@pytest.fixture
def decoded(monkeypatch):
    """A model whose output is the text backwards, and how often each text was given to it."""
    counts: Counter[str] = Counter()

    def decode(model, tokenizer, texts, sources, targets, settings, progress):
        counts.update(texts)
        outputs = [f"{text[::-1]} {target}" for text, target in zip(texts, targets, strict=True)]
        return [[f"{output}{n or ''}" for n in range(settings.num_return_sequences)] for output in outputs]

    monkeypatch.setattr(engine, "decode_several", decode)
    monkeypatch.setattr(engine.Checkpoint, "network", None)
    return counts


def expected(rows: list[dict[str, Any]], count: int = 1) -> list[dict[str, Any]]:
    def outputs(row: dict[str, Any]) -> list[str]:
        return [f"{row['text'][::-1]} en_XX{n or ''}" for n in range(count)]

    return [{**row, "prediction": outputs(row)[0] if count == 1 else outputs(row)} for row in rows]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows by other means than those that are tested."""
    kind = path.name.split(".")[1]
    if kind in ("parquet", "arrow"):
        table = pa.Table.from_pylist(rows)
        with pa.OSFile(str(path), "wb") as file:
            if kind == "parquet":
                pq.write_table(table, file)
            else:
                with pa.ipc.new_file(file, table.schema) as writer:
                    writer.write_table(table)
        return
    if kind in ("csv", "tsv"):
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), delimiter="," if kind == "csv" else "\t")
        writer.writeheader()
        writer.writerows(rows)
        content = text.getvalue()
    else:
        content = json.dumps(rows) if kind == "json" else "".join(f"{json.dumps(row)}\n" for row in rows)
    packed = {"gz": gzip.compress, "xz": lzma.compress}.get(path.name.split(".")[-1], bytes)
    path.write_bytes(packed(content.encode()))


def read(path: Path) -> list[dict[str, Any]]:
    kind = path.name.split(".")[1]
    if kind == "parquet":
        return pq.read_table(path).to_pylist()
    if kind == "arrow":
        return pa.ipc.open_file(path).read_all().to_pylist()
    unpacked = {"gz": gzip.decompress, "xz": lzma.decompress}.get(path.name.split(".")[-1], bytes)
    text = unpacked(path.read_bytes()).decode()
    if kind in ("csv", "tsv"):
        return list(csv.DictReader(io.StringIO(text, newline=""), delimiter="," if kind == "csv" else "\t"))
    return json.loads(text) if kind == "json" else [json.loads(line) for line in text.splitlines()]


FORMATS = ["jsonl", "json", "csv", "tsv", "parquet", "arrow", "jsonl.gz", "csv.xz", "json.zst"]


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_rows_in_the_same_format_and_order(name, decoded, tiny_mbart_dir, tmp_path):
    source, out = tmp_path / f"in.{name.replace('.zst', '')}", tmp_path / f"out.{name}"
    write(source, ROWS)
    count = generate_file(str(tiny_mbart_dir), InputData(input_file=str(source), **LANGS), out, Generate())
    if name.endswith(".zst"):
        with pa.CompressedInputStream(pa.OSFile(str(out)), "zstd") as file:
            out = tmp_path / "unpacked.json"
            out.write_bytes(file.read())
    assert read(out) == expected(ROWS)
    assert (count.written, count.skipped) == (7, 0)
    assert sorted(path.name for path in tmp_path.glob(".*")) == [], "nothing is left beside it"


@pytest.mark.parametrize("name", ["jsonl", "json", "parquet", "csv"])
def test_several_outputs_of_each(name, decoded, tiny_mbart_dir, tmp_path):
    source, out = tmp_path / f"in.{name}", tmp_path / f"out.{name}"
    write(source, ROWS)
    generate_file(
        str(tiny_mbart_dir), InputData(input_file=str(source), **LANGS), out, Generate(num_return_sequences=2)
    )
    wanted = expected(ROWS, 2)
    if name == "csv":
        wanted = [row | {f"prediction_{n}": one for n, one in enumerate(row["prediction"], 1)} for row in wanted]
        for row in wanted:
            del row["prediction"]
    assert read(out) == wanted


def test_types_of_columns_stay(decoded, tiny_mbart_dir, tmp_path):
    rows = [
        {"text": "a", "when": 1, "tags": ["x"], "inside": {"score": 0.5}},
        {"text": "b", "when": None, "tags": [], "inside": None},
    ]
    schema = pa.schema(
        {
            "text": pa.large_string(),
            "when": pa.timestamp("s"),
            "tags": pa.list_(pa.string()),
            "inside": pa.struct({"score": pa.float32()}),
        }
    )
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), tmp_path / "in.parquet")
    generate_file(
        str(tiny_mbart_dir),
        InputData(input_file=str(tmp_path / "in.parquet"), **LANGS),
        tmp_path / "out.parquet",
        Generate(),
    )
    made = pq.read_table(tmp_path / "out.parquet")
    assert made.schema.equals(pq.read_schema(tmp_path / "in.parquet").append(pa.field("prediction", pa.string())))
    assert made.drop_columns("prediction").to_pylist() == pa.Table.from_pylist(rows, schema=schema).to_pylist()


def test_languages_of_each_row(decoded, tiny_mbart_dir, tmp_path):
    rows = [
        {"text": "a", "to": "uk"},
        {"text": "b", "to": "eng_Latn"},
        {"text": "c", "to": "xx"},
        {"text": "d", "to": " "},
    ]
    write(tmp_path / "in.jsonl", rows)
    inputs = InputData(input_file=str(tmp_path / "in.jsonl"), source_lang="uk", target_lang_column="to")
    with pytest.raises(DataError, match=r"in\.jsonl, line 3: .*'xx'"):
        generate_file(str(tiny_mbart_dir), inputs, tmp_path / "out.jsonl", Generate())
    skipping = inputs.model_copy(update={"skip_bad_rows": True})
    count = generate_file(str(tiny_mbart_dir), skipping, tmp_path / "out.jsonl", Generate())
    assert [row["prediction"] for row in read(tmp_path / "out.jsonl")] == ["a uk_UA", "b en_XX"]
    assert (count.written, count.skipped) == (2, 2)


BAD_LINES = [
    '{"text": 5}',
    "not json",
    '{"tex": "x"}',
    '["text"]',
    '{"text": "a\\ud800"}',
    '{"text": "a\\u0000b"}',
    '{"text": "broken',
]


def test_bad_rows_end_the_work_before_it_begins_or_are_counted(decoded, tiny_mbart_dir, tmp_path):
    lines = [json.dumps({"text": "a" * (i + 1)}) for i in range(20)]
    for place, bad in enumerate(BAD_LINES):
        lines[2 * place + 1] = bad
    lines[17] = b'{"text": "\xff"}'.decode(errors="surrogateescape")
    (tmp_path / "in.jsonl").write_bytes("\n".join(lines).encode(errors="surrogateescape"))
    inputs = InputData(input_file=str(tmp_path / "in.jsonl"), **LANGS)
    with pytest.raises(DataError, match=r"in\.jsonl, line 2: column 'text' holds 5"):
        generate_file(str(tiny_mbart_dir), inputs, tmp_path / "out.jsonl", Generate())
    assert not decoded and not (tmp_path / "out.jsonl").exists()
    count = generate_file(
        str(tiny_mbart_dir), inputs.model_copy(update={"skip_bad_rows": True}), tmp_path / "out.jsonl", Generate()
    )
    assert (count.written, count.skipped) == (12, 8)
    assert (
        str(count)
        == f"12 rows, 8 skipped (first: {tmp_path}/in.jsonl, line 2: column 'text' holds 5, but text was expected.)"
    )
    good = [i for i in range(20) if i not in {1, 3, 5, 7, 9, 11, 13, 17}]
    assert read(tmp_path / "out.jsonl") == expected([{"text": "a" * (i + 1)} for i in good])


def test_bad_rows_of_csv(decoded, tiny_mbart_dir, tmp_path):
    (tmp_path / "in.csv").write_bytes(b'text,n\na,1\nb\n"c",3\nd,4,5\ncaf\xe9,6\n')
    inputs = InputData(input_file=str(tmp_path / "in.csv"), skip_bad_rows=True, **LANGS)
    count = generate_file(str(tiny_mbart_dir), inputs, tmp_path / "out.csv", Generate())
    assert (count.written, count.skipped) == (2, 3)
    assert [(row["n"], row["prediction"]) for row in read(tmp_path / "out.csv")] == [("1", "a en_XX"), ("3", "c en_XX")]


PROBLEMS = {
    "a column that is there": ("jsonl", "out.jsonl", {"prediction_column": "note"}, {}, "has a column 'note' already"),
    "unknown format": ("jsonl", "out.docx", {}, {}, "unknown format '.docx'"),
    "lines of several": ("jsonl", "out.txt", {}, {"num_return_sequences": 2}, "room for one output per input, not 2"),
    "a table of objects": ("jsonl", "out.parquet", {}, {}, "are written of one that is .parquet or .arrow"),
    "cells of objects": ("jsonl", "out.csv", {}, {}, "are written of one that is .csv, .tsv or lines"),
    "the input": ("jsonl", "in.jsonl", {}, {}, "is the input, and would be lost"),
    "no such column": ("csv", "out.csv", {"text_column": "body"}, {}, "there is no column 'body'"),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "name", "inputs", "settings", "said"), PROBLEMS.values(), ids=PROBLEMS)
def test_what_cannot_be_written_is_said_first(kind, name, inputs, settings, said, decoded, tiny_mbart_dir, tmp_path):
    source = tmp_path / f"in.{kind}"
    write(source, ROWS)
    before = source.read_bytes()
    with pytest.raises(DataError, match=said):
        generate_file(
            str(tiny_mbart_dir),
            InputData(input_file=str(source), **LANGS, **inputs),
            tmp_path / name,
            Generate(**settings),
        )
    assert not decoded and source.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [source.name]


def test_other_settings_do_not_go_on_with_what_is_there_but_smaller_batches_do(
    decoded, tiny_mbart_dir, tmp_path, monkeypatch
):
    write(tmp_path / "in.jsonl", [{"text": f"t{i}"} for i in range(3 * PART_ROWS)])
    inputs, out = InputData(input_file=str(tmp_path / "in.jsonl"), **LANGS), tmp_path / "out.jsonl"
    whole = engine.decode_several

    def interrupted(*arguments):
        if len(decoded) >= 2 * PART_ROWS:
            raise KeyboardInterrupt
        return whole(*arguments)

    monkeypatch.setattr(engine, "decode_several", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate_file(str(tiny_mbart_dir), inputs, out, Generate())
    monkeypatch.setattr(engine, "decode_several", whole)
    assert not out.exists()
    with pytest.raises(PolygraftError, match=r"unfinished outputs of other settings or inputs \(num_beams\)"):
        generate_file(str(tiny_mbart_dir), inputs, out, Generate(num_beams=2))
    with pytest.raises(PolygraftError, match="unfinished outputs"):
        generate_file(str(tiny_mbart_dir), inputs, out, Generate(), seed=2)
    generate_file(str(tiny_mbart_dir), inputs, out, Generate(per_device_eval_batch_size=2))
    assert read(out) == expected([{"text": f"t{i}"} for i in range(3 * PART_ROWS)])
    assert set(decoded.values()) == {1}, "no row is decoded twice"


def test_outputs_of_a_real_model_are_those_of_its_texts_alone(tiny_mbart_dir, sentences, tmp_path):
    from polygraft.inference.engine import generate_texts

    settings = Generate(num_beams=3, num_return_sequences=2, max_new_tokens=8, length_penalty=0.5)
    write(tmp_path / "in.jsonl", [{"text": text} for text in sentences])
    inputs = InputData(input_file=str(tmp_path / "in.jsonl"), **LANGS)
    generate_file(str(tiny_mbart_dir), inputs, tmp_path / "out.jsonl", settings)
    alone = [generate_texts(str(tiny_mbart_dir), [text], "uk", "en", settings)[0] for text in sentences]
    assert [row["prediction"] for row in read(tmp_path / "out.jsonl")] == alone


def test_what_is_drawn_is_drawn_again_alike(tiny_mbart_dir, sentences, tmp_path):
    write(tmp_path / "in.jsonl", [{"text": text} for text in sentences])
    inputs = InputData(input_file=str(tmp_path / "in.jsonl"), **LANGS)
    made = []
    for number, seed in enumerate((1, 1, 2)):
        out = tmp_path / f"out{number}.jsonl"
        generate_file(str(tiny_mbart_dir), inputs, out, Generate(num_beams=1, do_sample=True, max_new_tokens=8), seed)
        made.append(read(out))
    assert made[0] == made[1] != made[2]


KILLED = """
import sys, time
from pathlib import Path
from polygraft.inference import engine
from polygraft.runs import generation
from polygraft.settings import Generate, InputData
def decode(model, tokenizer, texts, *others):
    time.sleep(0.01)
    return [[text[::-1] + " en_XX"] for text in texts]
engine.decode_several, engine.Checkpoint.network = decode, None
inputs = InputData(input_file=sys.argv[2], source_lang="uk", target_lang="en", skip_bad_rows=True)
print(generation.generate_file(sys.argv[1], inputs, Path(sys.argv[3]), Generate()))
"""


@pytest.mark.slow
def test_a_hundred_thousand_rows_every_twentieth_broken_killed_and_gone_on_with(tiny_mbart_dir, tmp_path):
    lines = [json.dumps({"id": i, "text": f"ряд {i}"}, ensure_ascii=False) for i in range(100_000)]
    lines[19::20] = [BAD_LINES[i % len(BAD_LINES)] for i in range(5_000)]
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join(lines))
    command = [sys.executable, "-c", KILLED, str(tiny_mbart_dir), str(source), str(out)]
    parts = tmp_path / ".out.jsonl.parts"
    for wanted in (50, 150):
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            while len(list(parts.glob("part-*"))) < wanted:
                assert process.poll() is None, "it is killed before it ends"
                time.sleep(0.005)
            os.kill(process.pid, signal.SIGKILL)
        assert not out.exists()
    ends = {path.name: path.stat().st_mtime_ns for path in sorted(parts.glob("part-*"))[:150]}
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("95,000 rows, 5,000 skipped (first: ")
    assert read(out) == expected([{"id": i, "text": f"ряд {i}"} for i in range(100_000) if i % 20 != 19])
    assert len(ends) == 150 and not parts.exists()
