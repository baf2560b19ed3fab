"""A real server on a free port of loopback, before models that answer at once, when told to, or never."""

from __future__ import annotations

import functools
import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn

from polygraft.errors import DataError
from polygraft.models.recorded import Languages
from polygraft.serving.app import Service
from polygraft.serving.guard import Gate, Guard
from polygraft.serving.server import configured, listening
from polygraft.serving.shelf import ServedModel
from polygraft.settings import Serve


class FakeEngine:
    """Writes a text backwards. `gate` keeps it from going on, `calls` has the texts of each call."""

    def __init__(self, tokenizer: Any, languages: Languages) -> None:
        self.tokenizer, self.languages = tokenizer, languages
        self.gate, self.calls = threading.Event(), list[list[str]]()
        self.begun = threading.Semaphore(0)
        self.gate.set()

    def longest(self, settings: Any) -> int:
        return min(settings.max_source_length_tokens, 64)

    def decode(self, texts, sources, targets, settings, progress=None):
        self.calls.append(list(texts))
        self.begun.release()
        assert self.gate.wait(20)
        if "fail" in texts:
            raise ZeroDivisionError("a secret")
        if "refuse" in texts:
            raise DataError("the model cannot read this")
        outputs = [f"{text[::-1]} {settings.num_beams}" if text.strip() else "" for text in texts]
        return [[f"{one}{n or ''}" for n in range(settings.num_return_sequences)] for one in outputs]


@pytest.fixture(scope="session")
def make_model(mbart_tokenizer) -> Callable[..., ServedModel]:
    def _make(name: str = "one", sources=("uk_UA",), targets=("en_XX",)) -> ServedModel:
        engine: Any = FakeEngine(mbart_tokenizer, Languages(sources, targets))
        return ServedModel.of(name, engine)

    return _make


class Client:
    """What a client of the server does, by the standard library alone."""

    def __init__(self, port: int, service: Service) -> None:
        self.port, self.service, self.server = port, service, None
        self.desk = next(iter(service.desks.values()))
        self.engine: Any = self.desk.model.engine

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)

    def __call__(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        connection = self.connection()
        sent = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        kind = {} if isinstance(body, bytes | None) else {"Content-Type": "application/json"}
        connection.request(method, path, sent, {**kind, **(headers or {})})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return SimpleNamespace(
            status=answer.status, headers=answer.headers, content=content, text=content.decode(errors="replace")
        )

    def generate(self, *texts: str, **wish: Any) -> Any:
        found = self("POST", "/api/generate", {"texts": list(texts), **wish})
        found.json = json.loads(found.content)
        return found

    def soon(self, *texts: str, **wish: Any) -> SimpleNamespace:
        """Ask in a thread of its own; `done()` waits for the answer."""
        box: dict[str, Any] = {}
        thread = threading.Thread(target=lambda: box.update(answer=self.generate(*texts, **wish)), daemon=True)
        thread.start()

        def done() -> Any:
            thread.join(20)
            return box["answer"]

        return SimpleNamespace(done=done)


@contextmanager
def servers(make_model) -> Iterator[Callable[..., Client]]:
    """Starts servers, and ends them."""
    running: list[tuple[Any, threading.Thread, Client]] = []

    def _serve(*models: ServedModel, token: str | None = None, host: str = "127.0.0.1", **settings: Any) -> Client:
        names = settings.pop("allowed_host", None)
        given = Serve(host=host, allowed_host=[names] if names else [], **settings)
        named = {model.name: model for model in models or (make_model(),)}
        listener = listening(host, 0)
        gate = Gate.of(host, given.allowed_host, token)
        service = Service(named, given, gate)
        server = uvicorn.Server(configured(Guard(service.app, gate)))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        client = Client(listener.getsockname()[1], service)
        client.server = server
        running.append((server, thread, client))
        return client

    yield _serve
    for server, _, client in running:
        for desk in client.service.desks.values():
            getattr(desk.model.engine, "gate", threading.Event()).set()
        server.should_exit = True
    for _, thread, _ in running:
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture
def serve(make_model) -> Iterator[Callable[..., Client]]:
    with servers(make_model) as _serve:
        yield _serve


@pytest.fixture(scope="module")
def serve_all(make_model) -> Iterator[Callable[..., Client]]:
    """The same, one server of its settings for all tests of a file."""
    with servers(make_model) as _serve:
        yield functools.cache(_serve)


@pytest.fixture
def wait_until() -> Callable[[Callable[[], Any]], None]:
    def _wait(holds: Callable[[], Any]) -> None:
        done = threading.Event()
        for _ in range(400):
            if holds():
                return
            done.wait(0.025)
        raise AssertionError("it did not come to that within 10 s")

    return _wait
