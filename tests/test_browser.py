"""The browser that tests look at pages with: it asks nobody, and tells what a page tried."""

from __future__ import annotations

import pytest

OUTSIDE = {
    "http://127.0.0.1:65000/image": '<img src="{}">',
    "file:///nowhere/image": '<img src="{}">',
    "https://example.org/style": '<link rel="stylesheet" href="{}">',
    "https://example.org/script": '<script src="{}"></script>',
    "https://example.org/frame": '<iframe src="{}"></iframe>',
    "https://example.org/fetched": "<img src='data:,' onerror=\"fetch('{}').catch(() => document.title = 'over')\">",
    "ws://127.0.0.1:65000/socket": "<script>new WebSocket('{}').onopen = () => document.title = 'over'</script>",
}


@pytest.fixture
def open_html(visit, tmp_path):
    """Opens a page with a body."""

    def _open(body, **how):
        path = tmp_path / "page.html"
        path.write_text(f'<!doctype html><meta name="viewport" content="width=device-width"><body>{body}')
        return visit(path.as_uri(), **how)

    return _open


@pytest.mark.parametrize("address", OUTSIDE)
def test_what_a_page_asks_of_others_is_refused_and_told(visit, open_html, address):
    html = OUTSIDE[address].format(address)
    page = open_html(html)
    if "over" in html:
        page.wait_for_function("document.title == 'over'")
    assert visit.outside == [address]
    visit.outside.clear()
    visit.errors.clear()


def test_errors_of_a_page_are_told(visit, open_html):
    open_html("<script>console.error('one'); throw Error('two')</script>")
    assert visit.errors == ["one", "two"]
    visit.errors.clear()


def test_a_page_that_asks_nobody_is_left_alone(open_html):
    page = open_html('<img src="data:image/gif;base64,R0lGODlhAQABAAAAACw="><p>x</p>', size="phone", theme="dark")
    assert page.evaluate("[innerWidth, matchMedia('(prefers-color-scheme: dark)').matches]") == [390, True]
