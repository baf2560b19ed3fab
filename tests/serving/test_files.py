"""Files that are sent: they come back as `polygraft generate` writes them; what is wrong is refused, with its place."""

from __future__ import annotations

import json
from collections import Counter
from random import Random
from urllib.parse import urlencode

import pytest

from polygraft.inference import engine
from polygraft.runs.generation import generate_file
from polygraft.serving import limits
from polygraft.settings import Generate, InputData

ROWS = [{"n": str(i), "text": f'ряд {i}, "a"\nb' if i % 3 else "", "note": "x\ty"} for i in range(1, 12)]


def content(ending: str) -> bytes:
    if ending == "txt":
        return "".join(row["text"].partition("\n")[0] + "\n" for row in ROWS).encode()
    if ending == "json":
        return json.dumps(ROWS).encode()
    if ending == "jsonl":
        return "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    mark = {"csv": ",", "tsv": "\t"}[ending]
    quoted = [['"{}"'.format(cell.replace('"', '""')) for cell in row.values()] for row in ROWS]
    return "\n".join(map(mark.join, [["n", "text", "note"], *quoted])).encode()


@pytest.fixture
def upload(serve_all):
    def _upload(body: bytes, query: dict | None = None, client=None, **settings):
        client = client or serve_all(**{"per_device_eval_batch_size": 4, **settings})
        found = client("POST", "/api/files?" + urlencode({"format": "csv", **(query or {})}), body)
        found.client = client
        return found

    return _upload


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("ending", ["txt", "csv", "tsv", "json", "jsonl"])
def test_a_file_comes_back_as_generate_writes_it(upload, tmp_path, tiny_mbart_dir, monkeypatch, ending, count):
    if (ending, count) == ("txt", 2):
        assert upload(content("txt"), {"format": "txt", "num_return_sequences": 2}).status == 422
        return
    found = upload(content(ending), {"format": ending, "num_beams": 2, "num_return_sequences": count})
    assert found.status == 200
    fake = found.client.engine
    monkeypatch.setattr(engine, "decode_several", lambda model, tokenizer, *rest: fake.decode(*rest))
    monkeypatch.setattr(engine.Checkpoint, "network", None)
    source, target = tmp_path / f"in.{ending}", tmp_path / f"out.{ending}"
    source.write_bytes(content(ending))
    inputs = InputData(input_file=str(source), source_lang="uk", target_lang="en")
    generate_file(str(tiny_mbart_dir), inputs, target, Generate(num_beams=2, num_return_sequences=count))
    assert found.content == target.read_bytes()
    assert found.headers["Content-Disposition"] == f'attachment; filename="outputs.{ending}"'
    assert (found.headers["X-Rows"], found.headers["X-Skipped-Rows"]) == ("11", "0")


REFUSED = {
    "no format": (b"text\na\n", {"format": ""}, 415),
    "parquet": (b"PAR1", {"format": "parquet"}, 415),
    "compressed": (b"\x1f\x8b", {"format": "csv.gz"}, 415),
    "a path as format": (b"a", {"format": "/../../x.csv"}, 415),
    "empty": (b"", {}, 422),
    "blank": (b"text\n \n", {}, 422),
    "no such column": (b"text\na\n", {"text_column": "body"}, 422),
    "a path as column": (b"text\na\n", {"text_column": "../../etc/passwd"}, 422),
    "cells too many": (b"text\na\nb,c\n", {}, 422),
    "an open quote": (b'text\n"a\n', {}, 422),
    "no UTF-8": (b"text\ncaf\xe9\n", {}, 422),
    "a NUL": (b"text\na\0\n", {}, 422),
    "UTF-16": ("text\na".encode("utf-16"), {}, 422),
    "binary": (bytes(range(256)) * 9, {"format": "jsonl"}, 422),
    "broken JSON": (b'{"text": "a"', {"format": "jsonl"}, 422),
    "deep JSON": (b'{"text": ' + b"[" * 80_000, {"format": "jsonl"}, 422),
    "deep JSON whole": (b"[" * 80_000, {"format": "json"}, 422),
    "half a character as a name": (b'{"\\ud83d": 1}', {"format": "jsonl"}, 422),
    "numbers": (b'{"text": 1}', {"format": "jsonl"}, 422),
    "a column that is there": (b"text,prediction\na,b\n", {}, 422),
    "too many rows": (b"text\n" + b"a\n" * 21, {}, 413),
    "too long a text": (b"text\n" + b"a" * 101, {}, 413),
    "too large": (b"text\n" + b"a\n" * 50_000, {}, 413),
    "unknown parameter": (b"text\na\n", {"path": "/etc/passwd"}, 422),
    "no number": (b"text\na\n", {"num_beams": "many"}, 422),
    "another model": (b"text\na\n", {"model": "../other"}, 422),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(upload, case):
    body, query, status = REFUSED[case]
    found = upload(body, query, max_file_rows=20, max_text_characters=100, max_file_megabytes=0.09)
    assert found.status == status
    words = json.loads(found.text)["error"]
    assert "polygraft-" not in words and "/tmp" not in words  # where it lay is nobody's business
    assert found.client.engine.calls == []  # of a server of its own settings


def test_a_broken_row_is_named_or_left_out(upload):
    body = b'{"text": "a"}\n{"text": 3}\n{"text": "b"}\n'
    refused = upload(body, {"format": "jsonl"})
    assert json.loads(refused.text)["error"].startswith("file.jsonl, line 2: column 'text' holds 3")
    found = upload(body, {"format": "jsonl", "skip_bad_rows": "true"}, refused.client)
    assert found.content == b'{"text": "a", "prediction": "a 4"}\n{"text": "b", "prediction": "b 4"}\n'
    assert (found.headers["X-Rows"], found.headers["X-Skipped-Rows"]) == ("2", "1")


def test_what_no_encoding_can_hold_is_kept_as_it_was(upload):
    row = b'{"text": "a", "note": "\\ud800"}\n'
    found = upload(row, {"format": "jsonl"})
    assert json.loads(found.text) == {"text": "a", "note": "\ud800", "prediction": "a 4"}


def test_rows_come_as_they_are_made_and_who_stops_is_not_worked_for(serve, wait_until):
    client = serve(per_device_eval_batch_size=2)
    connection = client.connection()
    client.engine.gate.clear()
    body = b"text\n" + b"".join(b"row %d\n" % n for n in range(10))
    connection.request("POST", "/api/files?format=csv", body)
    assert client.engine.begun.acquire(timeout=10)
    text = client.soon("between")  # does not wait for all of the file
    wait_until(lambda: len(client.desk.waiting) == 1)
    client.engine.gate.set()
    assert text.done().status == 200
    assert client.engine.calls[:2] == [["row 0", "row 1"], ["between"]]
    answer = connection.getresponse()
    assert answer.readline() == b"text,prediction\n"
    assert answer.readline() == b"row 0,0 wor 4\n"
    client.engine.gate.clear()
    answer.close()
    connection.close()
    client.engine.gate.set()
    wait_until(lambda: not client.service.files.of)


def test_few_files_at_a_time(serve, upload, wait_until):
    client = serve()
    turns = client.service.files
    with turns.taken("127.0.0.1"), turns.taken("127.0.0.1"):
        found = upload(b"text\n" + b"a" * 9_000_000, client=client)  # heard after all is sent
        assert (found.status, found.headers["Retry-After"]) == (429, str(limits.RETRY_SECONDS))
    with turns.taken("a"), turns.taken("a"), turns.taken("b"), turns.taken("b"):
        assert upload(b"text\na\n", client=client).status == 503
    assert upload(b"text\na\n", client=client).status == 200
    wait_until(lambda: not turns.of)


def test_a_failure_in_the_middle_ends_the_connection(serve, upload):
    client = serve(per_device_eval_batch_size=1)
    import http.client

    with pytest.raises(http.client.IncompleteRead):
        upload(b"text\na\nfail\n", client=client)
    assert not client.service.files.of
    assert upload(b"text\na\n", client=client).status == 200


def broken(random: Random, content: bytes) -> bytes:
    """A file or a request with a few bytes changed, put in, left out or doubled."""
    for _ in range(random.choice((1, 1, 2, 5))):
        place, length = random.randrange(len(content) + 1), random.randrange(1, 8)
        pieces = [b"", random.randbytes(length), content[place : place + length], *PIECES]
        content = content[:place] + random.choice(pieces) + content[place + random.choice((0, length)) :]
    return content


PIECES = (b'"', b"{", b"[", b"\\ud83d", b"\0", b"\r", b"\xef\xbb\xbf", b"1e999", b"NaN", b",", b"\t", b"null", b"true")
REQUEST = b'{"texts": ["\xd0\xb6", "x"], "num_beams": 2, "length_penalty": 1.5, "model": "one", "source_lang": "uk"}'


@pytest.mark.parametrize("kind", ["request", "txt", "csv", "tsv", "json", "jsonl"])
def test_nothing_that_is_sent_breaks_it(serve_all, kind):
    client, random, seen = serve_all(), Random(kind), Counter()
    for number in range(60):
        if kind == "request":
            found = client("POST", "/api/generate", broken(random, REQUEST), {"Content-Type": "application/json"})
        else:
            query = f"format={kind}&skip_bad_rows={number % 2}"
            found = client("POST", f"/api/files?{query}", broken(random, content(kind)))
        seen[found.status] += 1
    assert set(seen) == {200, 422}
