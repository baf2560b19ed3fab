"""A headless browser for tests of pages: Chromium as the system has it, cut off from everything outside.

The fixture `visit` opens pages. What a page asks of anyone but its own origin is refused and kept,
and so are its errors; the test fails for either. Without a browser these tests are skipped, also where
POLYGRAFT_NO_SKIPS is set (conftest.py).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome")
SIZES = {"phone": (390, 844), "desktop": (1280, 800)}  # CSS pixels
# Chromium's own calls home; and no name but the loopback's is looked up, whatever a page does.
QUIET = [
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
]  # fmt: skip


def find_browser() -> str | None:
    """The first of the names that is on PATH."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium; of one module, since Playwright holds the thread's event loop as long as it lives."""
    path = find_browser()
    if path is None:
        pytest.skip("no Chromium on PATH (on Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=path, args=QUIET)
        yield chromium
        chromium.close()


@dataclass
class Visits:
    """Opens pages; keeps what they asked of the outside, and what went wrong in them."""

    browser: Browser
    outside: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def __call__(
        self, address: str, size: Literal["phone", "desktop"] = "desktop", theme: Literal["light", "dark"] = "light"
    ) -> Page:
        """Open a page in a context of its own; for print, `page.emulate_media(media="print")` or `page.pdf()`."""
        width, height = SIZES[size]
        phone = size == "phone"
        context = self.browser.new_context(
            viewport={"width": width, "height": height}, is_mobile=phone, has_touch=phone, color_scheme=theme,
            service_workers="block",
        )  # fmt: skip
        nobody_else = ("", _origin(address))
        context.route(lambda url: _origin(url) not in nobody_else, self._refuse)
        # A socket that is routed and not connected goes nowhere.
        context.route_web_socket(
            lambda url: _origin(url) not in nobody_else, lambda socket: self.outside.append(socket.url)
        )
        page = context.new_page()
        page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.goto(address)
        return page

    def _refuse(self, route: Any) -> None:
        self.outside.append(route.request.url)
        route.abort("blockedbyclient")


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visits]:
    """Opens pages; the test fails when one of them asks for anything outside, or reports an error."""
    visits = Visits(browser)
    yield visits
    for context in browser.contexts:
        context.close()
    assert visits.outside == []
    assert visits.errors == []


def _origin(address: str) -> str:
    """Who is asked: host and port, or a file; what a page carries within itself is asked of nobody."""
    parts = urlsplit(address)
    if parts.scheme in ("data", "blob", "about"):
        return ""
    return parts.path if parts.scheme == "file" else parts.netloc
