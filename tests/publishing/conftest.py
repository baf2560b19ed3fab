"""A run of tiny models; a hub on loopback, for the real client: it answers as huggingface.co does, and keeps all."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import constants
from huggingface_hub.utils import close_session

from polygraft import pipeline
from polygraft.publishing import push
from polygraft.recipe.reading import load_recipe

TOKEN = "hf_thisTokenIsOnlyForTests"
LFS_FROM = 10_000  # bytes; the real one: by name and size
COMMIT = "c0ffee0000000000000000000000000000000000"


@dataclass
class Request:
    """One request: what was asked of what, by whom, with what."""

    method: str
    path: str
    token: str | None
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Hub:
    """Its state: who owns what, what is in it, what was asked, and what is to go wrong.

    Attributes:
        faults: by method and pattern of the path, the answers that come first: a status, what returns one, None to cut
            the connection.
    """

    url: str = ""
    private: dict[str, bool] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    cards: dict[str, str] = field(default_factory=dict)
    branches: list[str] = field(default_factory=lambda: ["main"])
    requests: list[Request] = field(default_factory=list)
    faults: dict[str, list[Any]] = field(default_factory=dict)
    after: Callable[[str], None] | None = None
    waited: list[float] = field(default_factory=list)

    def asked(self, pattern: str) -> list[Request]:
        return [one for one in self.requests if re.search(pattern, f"{one.method} {one.path}")]

    def answer(self, request: Request) -> tuple[int, Any, dict[str, str]]:
        """Status, content and headers."""
        asked = f"{request.method} {request.path}"
        for pattern, answers in self.faults.items():
            if answers and re.search(pattern, asked):
                status = answers.pop(0)
                if callable(status):
                    return status(), {}, {}
                if status is None:
                    raise ConnectionAbortedError
                return status, b"<html>" if status == 502 else fault(status), {}  # 502: a gateway's
        if found := re.match(r"/(?:v(\d)/)?(xorbs|shards|chunks|xorb-grants|telemetry)", request.path):
            return *self._stored(*found.groups()), {}
        if request.method == "PUT":
            self.blobs[hashlib.sha256(request.body).hexdigest()] = request.body
            return 200, {}, {}
        if found := re.search(r"^GET /(.+)/resolve/[^/]+/README.md$", asked.replace("HEAD", "GET")):
            return self._card(found[1])
        if request.token != TOKEN:
            return 401, {"error": "Invalid username or password."}, {}
        if "/xet-write-token/" in request.path:
            facts = {"Cas-Url": self.url, "Access-Token": "xet", "Token-Expiration": "4102444800"}
            content = {"casUrl": self.url, "accessToken": "xet", "exp": 4102444800}
            return 200, content, {f"X-Xet-{name}": fact for name, fact in facts.items()}
        for pattern, respond in self._routes().items():
            if found := re.search(pattern, asked):
                return *respond(request, *found.groups()), {}
        return 404, {"error": f"no such route: {asked}"}, {}

    def _routes(self) -> dict[str, Callable[..., tuple[int, Any]]]:
        return {
            r"^POST /api/repos/create$": self._create,
            r"^POST /api/validate-yaml$": lambda request: (200, {"errors": [], "warnings": []}),
            r"^GET /api/models/([^/]+/[^/]+?)(?:/revision/.*)?$": self._info,
            r"^POST /api/models/.+/branch/(.+)$": self._branch,
            r"^POST /api/models/.+/preupload/(.+?)(?:\?.*)?$": self._preupload,
            r"^POST /(.+)\.git/info/lfs/objects/batch$": self._batch,
            r"^POST /verify$": lambda request: (200, {}),
            r"^POST /api/models/(.+)/commit/(.+)$": self._commit,
        }

    @staticmethod
    def _stored(version: str | None, what: str) -> tuple[int, Any]:
        """The store of chunks: of its protocol the first version, to which clients fall back."""
        known = {"xorbs": {"was_inserted": True}, "shards": {"result": 1}, "telemetry": {}}
        return (200, known[what]) if what in known and version in (None, "1") else (404, {})

    def _card(self, repo: str) -> tuple[int, Any, dict[str, str]]:
        if repo not in self.cards:
            return 404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"}
        etag = hashlib.sha1(self.cards[repo].encode()).hexdigest()
        return 200, self.cards[repo].encode(), {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"'}

    def _create(self, request: Request) -> tuple[int, Any]:
        repo = f"{request.json['organization']}/{request.json['name']}"
        if repo in self.private:
            return 409, {"error": "You already created this model repo", "url": f"{self.url}/{repo}"}
        visibility = request.json.get("visibility", "private" if request.json.get("private") else "public")
        self.private[repo] = visibility == "private"
        return 200, {"url": f"{self.url}/{repo}"}

    def _info(self, request: Request, repo: str) -> tuple[int, Any]:
        if repo not in self.private:
            return 404, {"error": "Repository not found"}
        siblings = [{"rfilename": name} for name in self.files]
        return 200, {"id": repo, "private": self.private[repo], "sha": COMMIT, "siblings": siblings, "tags": []}

    def _branch(self, request: Request, name: str) -> tuple[int, Any]:
        self.branches.append(name)
        return 200, {}

    def _preupload(self, request: Request, revision: str) -> tuple[int, Any]:
        if revision not in self.branches:
            return 404, {"error": f"Invalid rev id: {revision}"}
        found = []
        for one in request.json["files"]:
            mode = "lfs" if one["size"] >= LFS_FROM else "regular"
            known = self.files.get(one["path"])
            found.append({"path": one["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid(known, mode)})
        return 200, {"files": found}

    def _batch(self, request: Request, repo: str) -> tuple[int, Any]:
        objects = []
        for one in request.json["objects"]:
            actions = {"upload": {"href": f"{self.url}/lfs/{one['oid']}"}, "verify": {"href": f"{self.url}/verify"}}
            objects.append(one if one["oid"] in self.blobs else one | {"actions": actions})
        xet = "xet" in request.json["transfers"]  # as clients before huggingface_hub 2 ask for it
        return 200, {"transfer": "xet" if xet else "basic", "objects": objects}

    def _commit(self, request: Request, repo: str, revision: str) -> tuple[int, Any]:
        for line in map(json.loads, request.body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                self.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.files[value["path"]] = self.blobs[value["oid"]] if self.blobs else value["oid"].encode()
        if self.after:
            self.after(revision)
        return 200, {"commitUrl": f"{self.url}/{repo}/commit/{COMMIT}", "commitOid": COMMIT}


def fault(status: int) -> dict[str, Any]:
    return {"error": f"fault {status}", "errors": [{"message": f"fault {status}"}]}


def oid(content: bytes | None, mode: str) -> str | None:
    """What the hub says of a file that it has: the sha256 of a large one, git's hash of another."""
    if content is None:
        return None
    git = hashlib.sha1(f"blob {len(content)}\0".encode() + content)
    return hashlib.sha256(content).hexdigest() if mode == "lfs" else git.hexdigest()


@contextmanager
def serve() -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
            request = Request(self.command, self.path, token, body)
            hub.requests.append(request)
            try:
                status, content, headers = hub.answer(request)
            except ConnectionAbortedError:
                self.close_connection = True
                self.connection.close()
                return
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_HEAD = do_POST = do_PUT = _answer

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def only_loopback(look_up: Callable[..., Any], host: Any, *arguments: Any, **options: Any) -> Any:
    assert host in ("127.0.0.1", "localhost"), f"{host}: a test may ask nothing of the network"
    return look_up(host, *arguments, **options)


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Iterator[Hub]:
    """The hub that the client in this process talks to, logged in; it waits for nothing."""
    with serve() as found:
        here = {
            "ENDPOINT": found.url, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True,
            "HUGGINGFACE_CO_URL_TEMPLATE": found.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path / "cache"),
        }  # fmt: skip
        for name, value in here.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr(socket, "getaddrinfo", partial(only_loopback, socket.getaddrinfo))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(push.time, "sleep", found.waited.append)  # of the client, too
        close_session()
        yield found
        close_session()


@pytest.fixture
def far_hub() -> Iterator[Hub]:
    """A hub for processes of their own."""
    with serve() as found:
        yield found


def recipe_of(folder: Path) -> dict[str, Any]:
    """Fine-tuning as it is beside the whole way, on one seed."""
    train = {"learning_rate": 1e-3, "per_device_train_batch_size": 4, "max_length_tokens": 24, "budget": {"steps": 2}}
    pairs = dict.fromkeys(("train_file", "validation_file", "test_file"), str(folder / "pairs.jsonl"))
    tune = {"budget": {"steps": 2}, "learning_rate": 1e-3, "per_device_train_batch_size": 4}
    return {
        "name": "tiny", "output_dir": str(folder / "outputs"), "seeds": [1],
        "source": str(folder / "xlmr"), "target": str(folder / "mbart"),
        "text": {"train_file": str(folder / "text.jsonl"), "lang": "uk"},
        "pairs": {**pairs, "source_lang": "uk"},
        "finetune": {**tune, "max_source_length_tokens": 32, "max_target_length_tokens": 16},
        "evaluate": {"num_beams": 1, "max_new_tokens": 8, "max_source_length_tokens": 32},
        "arms": {"plain": {}, "detour": {"adapt": train, "transfer": {}}},
        "verdict": {"treatment": "detour", "control": "plain"},
    }  # fmt: skip


@pytest.fixture(scope="session")
def run(tmp_path_factory, sentences, write_tiny_models) -> Path:
    """A run's folder; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("secretuser") / "publishing"
    write_tiny_models(folder)
    (folder / "mbart" / "README.md").write_text("---\nlicense: mit\n---\n", encoding="utf-8")
    rows = [
        {"id": f"uk-{i:02}", "text": f"{text} {i}", "summary": text.split(".")[0]} for i, text in enumerate(sentences)
    ]
    for name in ("text", "pairs"):
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe_of(folder), allow_unicode=True), encoding="utf-8")
    recipe = load_recipe(folder / "recipe.yaml")
    pipeline.run(recipe, recipe_text=(folder / "recipe.yaml").read_text(encoding="utf-8"))
    return folder / "outputs" / "tiny"


@pytest.fixture
def copy(run, tmp_path) -> Path:
    """The run as it is on another machine, to be edited."""
    copied = shutil.copytree(run, tmp_path / "copy" / "tiny")
    for path in copied.rglob("stage.json"):
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace(str(run.parent), "/gone"), encoding="utf-8")
    return copied


@pytest.fixture
def model(copy) -> Path:
    return copy / "detour" / "seed-1" / "finetune"


@pytest.fixture
def unloaded(monkeypatch) -> None:
    """Loading what goes takes most of the time, and tells nothing of the hub."""
    monkeypatch.setattr("polygraft.publishing.push.load", lambda folder: None)
