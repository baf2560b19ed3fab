"""Who is let in, by name, site and token; clients that are slow; that nothing which a request names is opened."""

from __future__ import annotations

import json
import socket
import sys
from contextlib import contextmanager
from urllib.parse import quote

import pytest

from polygraft.errors import RecipeError
from polygraft.serving import guard, limits, protocol
from polygraft.serving.guard import COOKIE, Gate

TOKEN = "0123456789abcdef-token"
LOOPBACK = {
    "127.0.0.1": 200, "localhost": 200, "LOCALHOST": 200, "localhost.": 200, "[::1]": 200, "127.9.9.9": 200,
    "proxy.example": 200, "evil.example": 403, "localhost.evil.example": 403, "127.0.0.1.evil.example": 403,
    "192.168.0.7": 403, "0.0.0.0": 403, "": 403, "[": 403, "localhost@evil.example": 403, "evil.example#localhost": 403,
}  # fmt: skip
"""By the name that a client calls the server, on loopback with --allowed-host proxy.example."""


@pytest.mark.parametrize("host", LOOPBACK)
def test_names_on_loopback(serve_all, host):
    client = serve_all(allowed_host="Proxy.example", token=TOKEN)
    for name in (host, f"{host}:{client.port}"):
        if name.startswith(":"):
            continue
        assert client("GET", "/health", headers={"Host": name}).status == LOOPBACK[host], name


def test_names_beyond_loopback():
    """An address cannot be made to lead elsewhere, a name can."""
    gate = Gate.of("0.0.0.0", ["server.lan"], TOKEN)
    names = ("192.168.0.7:8000", "[2001:db8::1]:8000", "server.lan", "localhost", "evil.example", "")
    assert [gate._is_own(name) for name in names] == [True, True, True, True, False, False]


CALLERS = {
    "no browser": ({}, 200),
    "the page": ({"Origin": "http://{host}", "Sec-Fetch-Site": "same-origin"}, 200),
    "the page behind a proxy's TLS": ({"Origin": "https://{host}"}, 200),
    "another site": ({"Origin": "http://evil.example"}, 403),
    "another port": ({"Origin": "http://127.0.0.1:1"}, 403),
    "no site": ({"Origin": "null"}, 403),
    "no address": ({"Origin": "http://["}, 403),
    "another site, without Origin": ({"Sec-Fetch-Site": "cross-site"}, 403),
    "the same site": ({"Sec-Fetch-Site": "same-site"}, 403),
    "another site's picture": ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 403),
    "another site's link": ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 403),
}


@pytest.mark.parametrize("caller", CALLERS)
def test_pages_of_other_sites(serve_all, caller):
    client = serve_all()
    headers, status = CALLERS[caller]
    headers = {name: value.format(host=f"127.0.0.1:{client.port}") for name, value in headers.items()}
    assert client("POST", "/api/generate", {"texts": ["a"]}, headers).status == status
    assert client("GET", "/api/models", None, headers).status == status
    link = status if "link" not in caller else 200  # to the page itself a link may lead
    assert client("GET", "/", None, headers).status == link
    assert "Access-Control-Allow-Origin" not in client("OPTIONS", "/api/generate", None, headers).headers


@pytest.mark.parametrize(
    ("host", "token", "words"),
    [
        ("0.0.0.0", None, "others can reach it"),
        ("::", "", "others can reach it"),
        ("", None, "others can reach it"),
        ("192.168.0.7", None, "others can reach it"),
        ("server.lan", None, "others can reach it"),
        ("0.0.0.0", "short", "16 or more"),
        ("127.0.0.1", "short", "16 or more"),
        ("0.0.0.0", "with a blank in it", "16 or more"),
        ("0.0.0.0", "ключ" * 5, "16 or more"),
    ],
)
def test_it_does_not_start(invoke, monkeypatch, host, token, words):
    monkeypatch.delenv("POLYGRAFT_TOKEN", raising=False)
    if token is not None:
        monkeypatch.setenv("POLYGRAFT_TOKEN", token)
    result = invoke("serve", "--model", "polygraft/nano-mbart", "--host", host)
    assert result.exit_code == 2
    assert words in result.stderr and "POLYGRAFT_TOKEN" in result.stderr


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_loopback_needs_no_token_unless_a_proxy_is_before_it(host):
    assert Gate.of(host, [], None).token is None
    with pytest.raises(RecipeError, match="others can reach it"):
        Gate.of(host, ["server.lan"], None)


def test_a_token_opens_and_nothing_else_does(serve):
    client = serve(token=TOKEN)
    wrong = [
        {}, {"Cookie": f"{COOKIE}={TOKEN}"}, {"Cookie": f"{COOKIE}="}, {"Cookie": "\x01=;;=,"},
        *({"Authorization": f"Bearer {word}"} for word in ("", f"{TOKEN}x", TOKEN[:-1], "ÿ")),
        {"Authorization": f"Basic {TOKEN}"},
    ]  # fmt: skip
    for headers in wrong:
        headers = {name: value.encode("latin-1") for name, value in headers.items()}
        for path in ("/api/models", "/openapi.json", "/page.js", "/nothing", f"/api/models?token={TOKEN}"):
            found = client("GET", path, headers=headers)
            assert (found.status, found.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert client("POST", "/api/generate", {"texts": ["a"]}, headers).status == 401
    assert client.engine.calls == []
    assert client("GET", "/health").status == 200
    right = {"Authorization": f"Bearer {TOKEN}"}
    assert client("POST", "/api/generate", {"texts": ["a"]}, right).status == 200


def test_a_browser_shows_the_token_once(serve):
    client = serve(token=TOKEN)
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    away = client("GET", "/")
    assert (away.status, away.headers["Location"]) == (303, "/login")
    assert "password" in client("GET", "/login").text
    wrong = client("POST", "/login", b"token=wrong", form)
    assert wrong.status == 401 and "That is not the token" in wrong.text and wrong.headers["Set-Cookie"] is None
    for body in (b"", b"token", b"&&&&&&&", b"token=%ff", b"token=" + b"a" * 9000):
        assert client("POST", "/login", body, form).status in (401, 422)
    assert client("POST", "/login", b"token=" + b"a" * 10_001, form).status == 413
    found = client("POST", "/login", f"token={quote(TOKEN)}".encode(), form)
    cookie = found.headers["Set-Cookie"]
    assert found.status == 303 and "HttpOnly" in cookie and "SameSite=strict" in cookie and TOKEN not in cookie
    assert client("GET", "/", headers={"Cookie": cookie.partition(";")[0]}).status == 200


def raw(client, *parts: bytes, wait: float = 20) -> bytes:
    """What comes back on a connection over which these bytes are sent."""
    with socket.create_connection(("127.0.0.1", client.port), timeout=wait) as connection:
        for part in parts:
            connection.sendall(part)
        found = b""
        while received := connection.recv(65536):
            found += received
        return found


def test_slow_clients_are_not_waited_for(serve, monkeypatch):
    monkeypatch.setattr(protocol, "HEADER_SECONDS", 0.3)
    monkeypatch.setattr(limits, "BODY_SECONDS", 0.3)
    client = serve()
    assert raw(client) == b""  # says nothing, and is hung up on
    assert raw(client, b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: ") == b""
    head = b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99\r\n"
    found = raw(client, head + b"Connection: close\r\n\r\n", b'{"texts"')
    assert found.startswith(b"HTTP/1.1 408 ")
    assert not client.service.texts.of
    assert client("GET", "/health").status == 200


def test_who_does_not_read_is_not_waited_for(serve, monkeypatch, wait_until):
    monkeypatch.setattr(guard, "SEND_SECONDS", 0.3)
    client = serve()
    connection = client.connection()
    rows = b"text,note\n" + (b"a," + b"b" * 5000 + b"\n") * 1900
    connection.request("POST", "/api/files?format=csv", rows)
    wait_until(lambda: client.engine.calls)
    wait_until(lambda: not client.service.files.of)
    assert len(client.engine.calls) < 60  # of batches of 32 rows
    connection.close()
    assert client("GET", "/health").status == 200


NO_HTTP = {
    "TLS": b"\x16\x03\x01\x02\x00\x01",
    "no name": b"GET / HTTP/1.1\r\n\r\n",
    "two names": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "no end": b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
}


@pytest.mark.parametrize("kind", NO_HTTP)
def test_what_is_no_http(serve_all, kind):
    client = serve_all()
    found = raw(client, NO_HTTP[kind])
    assert found == b"" or found.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4"))
    assert client("GET", "/health").status == 200


SEEN: list[str] | None = None


def _hook(event: str, arguments: tuple) -> None:
    if SEEN is not None and event in ("open", "os.listdir", "os.scandir", "socket.getaddrinfo", "subprocess.Popen"):
        SEEN.append(f"{event} {arguments[0]!r}")


@contextmanager
def watched():
    """What is opened, listed, looked up or started, whoever does it."""
    global SEEN
    if not getattr(watched, "hooked", False):
        sys.addaudithook(_hook)
        watched.hooked = True
    SEEN = []
    try:
        yield SEEN
    finally:
        SEEN = None


SECRET = "etc/passwd-7d1f"
WAYS = ("/../../", "/page.css/../../", "/%2e%2e/%2e%2e/", "/..%2f..%2f", "//", "/api/models/../", "/page.css%00", "/")
PATHS = [way + SECRET for way in WAYS]
NAMES = [
    f"/{SECRET}",
    f"../../{SECRET}",
    f"file:///{SECRET}",
    f"http://evil.example/{SECRET}",
    f"hf://datasets/{SECRET}",
]


def test_nothing_that_a_request_names_is_opened(serve):
    client = serve()
    with watched() as seen:
        open(__file__).close()
        for path in PATHS:
            assert client("GET", path).status in (404, 403), path
        for name in NAMES:
            assert client.generate("a", model=name).status == 422
            assert client.generate("a", source_lang=name).status == 422
            assert client.generate(name).status == 200
            for query in (
                f"format={quote(name)}",
                f"format=csv&text_column={quote(name)}",
                f"format=csv&model={quote(name)}",
            ):
                assert client("POST", f"/api/files?{query}", b"text\na\n").status in (415, 422)
            rows = "".join(json.dumps({"text": name, "file": name}) + "\n" for _ in range(2)).encode()
            headers = {"Content-Disposition": f'attachment; filename="{name}"'}
            assert client("POST", "/api/files?format=jsonl", rows, headers).status == 200
    assert any(__file__ in one for one in seen)  # the watch sees
    assert [one for one in seen if "7d1f" in one or "evil" in one] == []
