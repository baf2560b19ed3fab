"""Who may ask: the address that was called, the page that calls, the token; and the headers of every answer.

A browser on the same machine or network runs pages of strangers. Such a page can make it call this server, by its
address (the Origin header tells) or by a name of the stranger's that is made to lead here (the Host header tells).
"""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
from collections.abc import Collection
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from polygraft.errors import RecipeError
from polygraft.serving.limits import CONNECTIONS, SEND_SECONDS, Refusal, Turns

COOKIE = "polygraft_session"
SHORTEST_TOKEN = 16
OPEN = ("/health", "/login", "/page.css", "/icon.svg")
"""What is answered without a token."""
OWN_NAMES = "Call it by its address, or start it with --allowed-host NAME."
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Gate:
    """Who is let in.

    Attributes:
        names: by which the server may be called, beside addresses.
        loopback: whether only this machine reaches it.
        token: what has to be shown, if anything.
        session: what a browser that has shown the token keeps instead of it, as long as the server runs.
    """

    names: frozenset[str]
    loopback: bool
    token: str | None
    session: str = field(default_factory=lambda: secrets.token_urlsafe(32))

    @classmethod
    def of(cls, host: str, allowed: Collection[str], token: str | None) -> Gate:
        """Decide who is let in where the server listens on `host`, and is called by the names `allowed`, too.

        Raises:
            RecipeError: others can reach it and there is no token, or one that can be guessed.
        """
        loopback = is_loopback(host)
        remedy = "Set POLYGRAFT_TOKEN, as by: export POLYGRAFT_TOKEN=$(openssl rand -hex 16)"
        if not token and (allowed or not loopback):  # a name of its own has what a proxy lets others reach
            which = f"--host {host}" if not loopback else "--allowed-host"
            raise RecipeError(f"polygraft serve: {which}: others can reach it, so it needs a token. {remedy}")
        if token and (len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token):
            raise RecipeError(f"POLYGRAFT_TOKEN: needs {SHORTEST_TOKEN} or more letters, digits or signs. {remedy}")
        return cls(frozenset({"localhost", *(name.lower().rstrip(".") for name in allowed)}), loopback, token)

    def knows(self, token: str) -> bool:
        """Whether a token is the right one, found in a time that says nothing of where it is not."""
        return self.token is not None and secrets.compare_digest(token.encode(), self.token.encode())

    def assert_admitted(self, headers: Headers, path: str) -> None:
        """Raise Refusal where a request must not be answered."""
        host = headers.get("host", "")
        if not self._is_own(host):
            raise Refusal(403, f"This server does not answer to that name. {OWN_NAMES}")
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
        followed = path in ("/", "/login") and headers.get("sec-fetch-mode") == "navigate"  # a link, or typed
        if (origin is not None and _netloc(origin) != host.lower()) or not (
            followed or site in ("same-origin", "none")
        ):
            raise Refusal(403, "Pages of other sites may not call this server.")
        if self.token and path not in OPEN and not self._has_shown_token(headers):
            raise Refusal(401, "A token is needed: Authorization: Bearer TOKEN.")

    def _is_own(self, host: str) -> bool:
        """Whether the Host header is a name of this server: an address cannot be made to lead elsewhere."""
        name = _hostname(host)
        try:
            return ipaddress.ip_address(name).is_loopback or not self.loopback
        except ValueError:
            return name.rstrip(".") in self.names

    def _has_shown_token(self, headers: Headers) -> bool:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self.knows(token.strip())
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and secrets.compare_digest(cookie.value.encode(), self.session.encode())


def refused(refusal: Refusal) -> JSONResponse:
    """The answer to a request that is not carried out."""
    return JSONResponse({"error": refusal.words}, refusal.status, headers=refusal.headers)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _netloc(address: str) -> str:
    """Name and port in an address, "" in what is none."""
    try:
        return urlsplit(address).netloc.lower()
    except ValueError:
        return ""


def _hostname(host: str) -> str:
    """The name in a Host header, "" in what is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


class Guard:
    """Stands before the application: lets in whom the gate admits, and sees to what goes out."""

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self.app, self.gate = app, gate
        self.turns = Turns(CONNECTIONS, CONNECTIONS, "requests")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            async with asyncio.timeout(SEND_SECONDS):  # of who does not read what was asked for
                await send(message)

        try:
            self.gate.assert_admitted(Headers(scope=scope), scope["path"])
            with self.turns.taken(""):
                await self.app(scope, receive, guarded)
        except Refusal as refusal:  # of the two above: the application answers its own
            await self._refused(scope, refusal)(scope, receive, guarded)

    @staticmethod
    def _refused(scope: Scope, refusal: Refusal) -> ASGIApp:
        if refusal.status == 401 and scope["path"] == "/":
            return RedirectResponse("/login", status_code=303)
        return refused(refusal)
