"""`polygraft generate` on standard input and output; what it does with files is in tests/runs/test_generation.py."""

from __future__ import annotations

import gzip
import io
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from polygraft.cli import app
from polygraft.data import notices
from polygraft.settings import Generate


@pytest.fixture
def shout(monkeypatch, tiny_mbart_dir):
    """A model that shouts, in two lines where the input says so; its tokenizer is a real one."""
    from polygraft.inference import engine

    calls: dict[str, Any] = {"texts": [], "model": str(tiny_mbart_dir)}

    def decode(model, tokenizer, texts, sources, targets, settings, progress):
        calls["texts"] += texts
        calls.update(sources=set(sources), targets=set(targets), settings=settings)
        return [[text.upper().replace(" / ", "\n")] * settings.num_return_sequences for text in texts]

    monkeypatch.setattr(engine, "decode_several", decode)
    monkeypatch.setattr(engine.Checkpoint, "network", None)
    return calls


@pytest.fixture
def generate(shout, invoke):
    def _generate(*options: str, stdin: bytes | str | None = None) -> Any:
        return invoke("generate", "--model", shout["model"], "--source-lang", "uk", *options, stdin=stdin)

    return _generate


def test_from_stdin_one_line_per_line(shout, generate):
    result = generate("--num-beams", "2", "--target-lang", "no", stdin="привіт\n\na / b\n")
    assert (result.exit_code, result.stderr.count("no_XX")) == (3, 0), "the tiny model does not write Norwegian"
    result = generate("--num-beams", "2", "--target-lang", "en", stdin="привіт\n\na / b\n")
    assert result.exit_code == 0, result.output
    assert result.stdout == "ПРИВІТ\n\nA B\n"
    assert shout["texts"] == ["привіт", "", "a / b"]
    assert shout["settings"] == Generate(num_beams=2)
    assert (shout["sources"], shout["targets"]) == ({"uk_UA"}, {"en_XX"})


@pytest.mark.parametrize("way", ["stdin", "file"])
def test_to_a_file(shout, generate, tmp_path, way):
    source, out = tmp_path / "in.txt", tmp_path / "new" / "out.txt"
    source.write_bytes(b"\xef\xbb\xbfone\r\ntwo / three")
    options = ["--input-file", str(source)] if way == "file" else []
    result = generate(
        *options, "--output-file", str(out), "--batch-size", "3", "--target-lang", "uk",
        stdin=None if options else source.read_bytes(),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    assert out.read_text() == "ONE\nTWO THREE\n"
    assert shout["settings"].per_device_eval_batch_size == 3
    assert f"generate: {out}: 2 rows" in result.stderr


PROBLEMS = {
    "missing": (["--input-file", "nowhere.txt"], b"", 3, "nowhere.txt: no such file"),
    "empty": ([], b"\n \n", 3, "-: holds no text"),
    "not UTF-8": ([], b"ok\ncaf\xe9\n", 3, "-, line 2, byte 4 (0xe9): not UTF-8"),
    "NUL": ([], b"ok\nca\0fe\n", 3, "-, line 2, character 3: a NUL"),
    "beams": (["--num-beams", "0"], b"x\n", 2, "--num-beams = 0: must be greater than 0"),
    "batch size": (["--batch-size", "x"], b"x\n", 2, "--batch-size = x: must be a whole number"),
    "more than beams": (["--num-return-sequences", "5"], b"x\n", 2, "num_return_sequences 5 is more than the 4 beams"),
    "a column of lines": (["--source-lang-column", "l"], b"x\n", 3, "-, line 1: there is no column 'l'"),
}


@pytest.mark.parametrize(("options", "stdin", "code", "message"), PROBLEMS.values(), ids=PROBLEMS)
def test_bad_input(shout, generate, options, stdin, code, message):
    result = generate("--target-lang", "uk", *options, stdin=stdin)
    assert result.exit_code == code
    assert message in result.stderr
    assert not any(text.strip() for text in shout["texts"])


def test_output_is_utf8_whatever_the_locale(shout, monkeypatch):
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO("привіт\n".encode())))
    monkeypatch.setattr(sys, "stdout", stdout)
    with pytest.raises(SystemExit) as end:
        app(["generate", "--model", shout["model"], "--source-lang", "uk", "--target-lang", "uk"])
    stdout.flush()
    assert end.value.code == 0
    assert stdout.buffer.getvalue() == "ПРИВІТ\n".encode()


@pytest.mark.parametrize(
    ("content", "lines"),
    [(b"a\r\nb\r\n", ["a", "b"]), (b"a\rb", ["a", "b"]), ("\ufeffa\u2028b\n\x0cc".encode(), ["a\u2028b", "\x0cc"])],
)
@pytest.mark.parametrize("way", ["stdin", "file", "gz"])
def test_lines_are_those_of_every_file(shout, generate, content, lines, way, tmp_path):
    if way == "stdin":
        result = generate("--target-lang", "uk", stdin=content)
    else:
        path = tmp_path / ("in.txt" if way == "file" else "in.txt.gz")
        path.write_bytes(content if way == "file" else gzip.compress(content))
        result = generate("--target-lang", "uk", "--input-file", str(path))
    assert result.exit_code == 0
    assert shout["texts"] == lines


def test_blank_lines_are_counted(generate):
    notices.say.cache_clear()
    result = generate("--target-lang", "uk", stdin="a\n\n \nb\n")
    assert "-: 2 of 4 texts are blank, and so are their outputs." in result.stderr
    assert len(result.stdout.splitlines()) == 4


def test_a_switch_alone_is_true_and_bad_lines_are_skipped_and_said(shout, generate):
    for switch in (["--skip-bad-rows"], ["--skip-bad-rows", "true"]):
        notices.say.cache_clear()
        shout["texts"].clear()
        result = generate("--target-lang", "uk", *switch, stdin=b"one\nca\xe9\nca\0\nfour\n")
        assert (result.exit_code, result.stdout, shout["texts"]) == (0, "ONE\nFOUR\n", ["one", "four"])
        assert "generate: 2 rows, 2 skipped (first: -, line 2: column 'text' holds '\\udce9'" in result.stderr
    assert generate("--target-lang", "uk", "--skip-bad-rows", "false", stdin=b"one\nca\xe9\n").exit_code == 3
