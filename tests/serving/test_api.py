"""The API: what it answers, what it refuses and how, what it does with many requests at a time."""

from __future__ import annotations

import json

import pytest

from polygraft.serving import limits
from polygraft.serving.desk import Desk


def test_texts_come_back_in_order_with_their_lengths(serve):
    client = serve()
    found = client.generate("abc", "", "d" * 5, num_beams=2, num_return_sequences=2)
    assert found.status == 200
    first, blank, last = found.json.pop("results")
    assert [one["text"] for one in first["outputs"]] == ["cba 2", "cba 21"]
    assert [one["characters"] for one in last["outputs"]] == [7, 8]
    tokenizer = client.engine.tokenizer
    assert first["source_tokens"] == len(tokenizer("abc")["input_ids"])
    assert first["outputs"][0]["tokens"] == len(tokenizer("cba 2", add_special_tokens=False)["input_ids"])
    assert blank["outputs"][0] == {"text": "", "tokens": 0, "characters": 0}
    assert not first["cut"]
    assert client.generate("слово " * 80).json["results"][0]["cut"]
    assert 0 <= found.json.pop("seconds") < 10
    assert found.json == {"model": "one", "source_lang": "uk_UA", "target_lang": "en_XX"}


def test_models_and_languages_are_chosen(serve, make_model):
    client = serve(make_model("one"), make_model("two", (), ()))
    described = json.loads(client("GET", "/api/models").text)
    assert [(one["name"], one["needs_source"], one["needs_target"]) for one in described] == [
        ("one", False, False),
        ("two", True, True),
    ]
    assert "da_DK" in described[0]["languages"]
    assert client.generate("a", model="two").status == 422
    found = client.generate("a", model="two", source_lang="de", target_lang="da_DK")
    assert (found.json["source_lang"], found.json["target_lang"]) == ("de_DE", "da_DK")
    assert client.generate("a", model="one", source_lang="xx").json["error"].startswith("one has no language")


TEXT = {"texts": ["a"]}
JSON = {"Content-Type": "application/json"}
REFUSED = {
    "no such page": ("GET", "/nothing", None, {}, 404),
    "another method": ("GET", "/api/generate", None, {}, 405),
    "no type": ("POST", "/api/generate", b'{"texts": ["a"]}', {}, 415),
    "a form": ("POST", "/api/generate", b"texts=a", {"Content-Type": "application/x-www-form-urlencoded"}, 415),
    "compressed": ("POST", "/api/generate", b"x", {**JSON, "Content-Encoding": "gzip"}, 415),
    "no JSON": ("POST", "/api/generate", b"{", JSON, 422),
    "no UTF-8": ("POST", "/api/generate", b'{"texts": ["\xff"]}', JSON, 422),
    "half a character": ("POST", "/api/generate", b'{"texts": ["\\ud800"]}', JSON, 422),
    "a list": ("POST", "/api/generate", [], {}, 422),
    "deep JSON": ("POST", "/api/generate", b'{"texts": ' + b"[" * 500_000, JSON, 422),
    "deep JSON that ends": ("POST", "/api/generate", b"[" * 500_000 + b"]" * 500_000, JSON, 422),
    "no texts": ("POST", "/api/generate", {}, {}, 422),
    "an empty list": ("POST", "/api/generate", {"texts": []}, {}, 422),
    "a text alone": ("POST", "/api/generate", {"texts": "a"}, {}, 422),
    "a number": ("POST", "/api/generate", {"texts": [1]}, {}, 422),
    "blank": ("POST", "/api/generate", {"texts": [" "]}, {}, 422),
    "a NUL": ("POST", "/api/generate", {"texts": ["a\0"]}, {}, 422),
    "unknown key": ("POST", "/api/generate", {**TEXT, "per_device_eval_batch_size": 9}, {}, 422),
    "a word for a number": ("POST", "/api/generate", {**TEXT, "num_beams": "4"}, {}, 422),
    "no beams": ("POST", "/api/generate", {**TEXT, "num_beams": 0}, {}, 422),
    "too many beams": ("POST", "/api/generate", {**TEXT, "num_beams": 9}, {}, 422),
    "more outputs than beams": ("POST", "/api/generate", {**TEXT, "num_return_sequences": 5}, {}, 422),
    "too long an output": ("POST", "/api/generate", {**TEXT, "max_new_tokens": 257}, {}, 422),
    "least above most": ("POST", "/api/generate", {**TEXT, "min_new_tokens": 65}, {}, 422),
    "not finite": ("POST", "/api/generate", b'{"texts": ["a"], "length_penalty": NaN}', JSON, 422),
    "huge number": ("POST", "/api/generate", b'{"texts": ["a"], "num_beams": 1' + b"0" * 5000 + b"}", JSON, 422),
    "no such model": ("POST", "/api/generate", {**TEXT, "model": "/etc/passwd"}, {}, 422),
    "too long a text": ("POST", "/api/generate", {"texts": ["a" * 201]}, {}, 413),
    "too many texts": ("POST", "/api/generate", {"texts": ["a"] * 5}, {}, 413),
    "too large": ("POST", "/api/generate", b" " * 2_000_001, JSON, 413),
    "twice too large": ("POST", "/api/generate", b" " * 4_000_000, JSON, 413),
    "a failure": ("POST", "/api/generate", {"texts": ["fail"]}, {}, 500),
    "what the model refuses": ("POST", "/api/generate", {"texts": ["refuse"]}, {}, 422),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(serve_all, case):
    *request, status = REFUSED[case]
    client = serve_all(max_text_characters=200, per_device_eval_batch_size=4)
    found = client(*request)
    assert found.status == status
    words = json.loads(found.text)
    assert set(words) == {"error"} and len(words["error"]) < 1500
    assert "Traceback" not in found.text and "secret" not in found.text
    assert client.generate("abc").json["results"][0]["outputs"][0]["text"] == "cba 4"  # it goes on


def test_every_answer_has_the_headers(serve):
    client = serve(token="a" * 16)
    for path in ("/", "/login", "/health", "/page.js", "/nothing", "/api/models"):
        headers = client("GET", path).headers
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert (headers["X-Content-Type-Options"], headers["X-Frame-Options"]) == ("nosniff", "DENY")
        assert headers["Referrer-Policy"] == ("same-origin" if path == "/login" else "no-referrer")
        assert headers["Cache-Control"] == "no-store"
        assert headers["Server"] is None


def test_the_description_has_what_requests_may_say(serve):
    described = json.loads(serve()("GET", "/openapi.json").text)
    request = described["components"]["schemas"]["TextRequest"]
    assert {"texts", "model", "num_beams", "source_lang"} <= set(request["properties"])
    assert all("description" in field for field in request["properties"].values())
    names = {one["name"] for one in described["paths"]["/api/files"]["post"]["parameters"]}
    assert {"format", "text_column", "skip_bad_rows", "max_new_tokens"} <= names
    references = json.dumps(described).split('"#/components/schemas/')[1:]
    assert {one.partition('"')[0] for one in references} <= set(described["components"]["schemas"])


def test_requests_that_wait_are_decoded_together_while_the_server_answers(serve, wait_until):
    client = serve(per_device_eval_batch_size=3)
    client.engine.gate.clear()
    first = client.soon("first")
    assert client.engine.begun.acquire(timeout=10)
    others = [client.soon(f"text {n}", **({"num_beams": 1} if n == 2 else {})) for n in range(5)]
    wait_until(lambda: len(client.desk.waiting) == 5)
    assert client("GET", "/health").text == '{"status":"ok"}'
    client.engine.gate.set()
    assert first.done().status == 200
    for n, one in enumerate(others):
        written = one.done().json["results"][0]["outputs"][0]["text"]
        assert written == f"text {n}"[::-1] + (" 1" if n == 2 else " 4")
    assert sorted(len(call) for call in client.engine.calls) == [1, 1, 1, 3]  # one has other settings


def test_one_that_fails_does_no_harm_to_those_beside_it(serve, wait_until):
    client = serve()
    client.engine.gate.clear()
    first = client.soon("first")
    assert client.engine.begun.acquire(timeout=10)
    asked = {text: client.soon(text) for text in ("good", "fail", "refuse", "fine")}
    wait_until(lambda: len(client.desk.waiting) == 4)
    client.engine.gate.set()
    assert {text: one.done().status for text, one in asked.items()} == {
        "good": 200,
        "fail": 500,
        "refuse": 422,
        "fine": 200,
    }
    assert first.done().status == 200
    assert sorted(client.engine.calls[1]) == ["fail", "fine", "good", "refuse"]


def test_too_many_of_one_address_and_of_all(serve, wait_until):
    client = serve(max_waiting=4)
    client.engine.gate.clear()
    taken = [client.soon("a") for _ in range(2)]
    turns = client.service.texts
    wait_until(lambda: turns.of.total() == 2)
    found = client.generate("b")
    assert (found.status, found.headers["Retry-After"]) == (429, str(limits.RETRY_SECONDS))
    with turns.taken("another"), turns.taken("another"):
        turns.of["127.0.0.1"] -= 2  # as if others had all four
        turns.of["a third"] += 2
        found = client.generate("b")
        assert (found.status, found.headers["Retry-After"]) == (503, str(limits.RETRY_SECONDS))
        turns.of["127.0.0.1"] += 2
        turns.of["a third"] -= 2
    client.engine.gate.set()
    assert [one.done().status for one in taken] == [200, 200]
    wait_until(lambda: not turns.of)
    assert client.generate("b").status == 200


def test_a_model_that_is_busy_too_long(serve, monkeypatch):
    monkeypatch.setattr(limits, "WAIT_SECONDS", 0.3)
    client = serve()
    client.engine.gate.clear()
    first = client.soon("a")
    assert client.engine.begun.acquire(timeout=10)
    found = client.generate("b")
    assert found.status == 503 and found.headers["Retry-After"]
    client.engine.gate.set()
    assert first.done().status == 200  # however long it takes, once it is begun


def test_who_has_gone_is_not_worked_for(serve, wait_until):
    client = serve()
    client.engine.gate.clear()
    first = client.soon("first")
    assert client.engine.begun.acquire(timeout=10)
    connection = client.connection()
    connection.request("POST", "/api/generate", json.dumps({"texts": ["gone"]}), JSON)
    wait_until(lambda: len(client.desk.waiting) == 1)
    connection.close()
    wait_until(lambda: not client.desk.waiting)
    client.engine.gate.set()
    assert first.done().status == 200
    assert client.engine.calls == [["first"]]


def test_what_is_in_the_work_is_answered_before_the_end(serve, wait_until):
    client = serve()
    client.engine.gate.clear()
    asked = client.soon("abc")
    assert client.engine.begun.acquire(timeout=10)
    client.server.should_exit = True
    wait_until(lambda: refuses_connections(client))
    client.engine.gate.set()
    assert asked.done().json["results"][0]["outputs"][0]["text"] == "cba 4"


def refuses_connections(client) -> bool:
    try:
        client("GET", "/health")
    except OSError:
        return True
    return False


def test_health_says_when_a_model_has_ended(serve, monkeypatch, wait_until):
    async def ends(desk):
        raise ZeroDivisionError

    monkeypatch.setattr(Desk, "work", ends)
    client = serve()
    assert client("GET", "/health").status == 503
