"""The page in a browser: it fits phone, desk and paper, is read in both themes, and is walked through by keyboard."""

from __future__ import annotations

import json
import shutil

import pytest

from polygraft.report import write

LANGUAGES = ("de_DE-uk_UA", "fr_XX-uk_UA", "uk_UA")
OUTSIDE_BOX = """() => {
    // Elements that reach over the right edge of the screen, but for what lies in a box that scrolls.
    const scrolls = (one) => one && (getComputedStyle(one).overflowX === 'auto' || scrolls(one.parentElement));
    const seen = [...document.querySelectorAll('body *')].filter((one) => !one.closest('svg') && one.checkVisibility());
    return seen.filter((one) => one.getBoundingClientRect().right > innerWidth + 0.5 && !scrolls(one.parentElement))
        .map((one) => one.outerHTML.slice(0, 200));
}"""
UNREACHABLE = """() => [...document.querySelectorAll('table')].filter((table) => {
    if (!table.checkVisibility()) return false;
    const box = table.closest('.scroll');
    box.scrollLeft = 1e6;
    const over = table.getBoundingClientRect().right - box.getBoundingClientRect().right;
    box.scrollLeft = 0;
    return over > 0.5;
}).map((table) => table.innerText.slice(0, 200))"""
SCROLLED = """() => [...document.querySelectorAll('.scroll')]
    .filter((box) => box.checkVisibility() && box.scrollWidth > box.clientWidth + 0.5)
    .map((box) => box.firstElementChild.className)"""
PALE = """(least) => {
    // Texts whose contrast (WCAG 2) with what is painted below them is less than `least`.
    const numbers = (colour) => {
        const [r, g, b, a = 1] = colour.match(/[\\d.]+/g).map(Number);
        return [r, g, b, a];
    };
    const over = (above, below) => [0, 1, 2].map((i) => above[i] * above[3] + below[i] * (1 - above[3])).concat(1);
    const ground = (one) => {
        if (!one) return [255, 255, 255, 1];
        const own = numbers(getComputedStyle(one).backgroundColor);
        return own[3] === 1 ? own : over(own, ground(one.parentElement));
    };
    const light = (colour) => colour.slice(0, 3).map((c) => c / 255)
        .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const pale = [];
    for (const one of document.querySelectorAll('body *')) {
        const says = [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
        if (!says || !one.checkVisibility()) continue;
        const below = ground(one.closest('svg') ? one.closest('svg').parentElement : one);
        const style = getComputedStyle(one);
        const colour = over(numbers(one.closest('svg') ? style.fill : style.color), below);
        const [high, low] = [light(colour), light(below)].sort((a, b) => b - a);
        const contrast = (high + 0.05) / (low + 0.05);
        if (contrast < least) pale.push([contrast.toFixed(2), one.tagName, one.className.baseVal ?? one.className,
            one.textContent.slice(0, 40)]);
    }
    return pale;
}"""


@pytest.fixture(scope="module")
def address(run, change, tmp_path_factory):
    """A page with all that there is to show: several languages, a long word, much text, arms with long names."""
    folder = tmp_path_factory.mktemp("looks") / "copy"
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("*.safetensors", "checkpoints", "diagnose"))
    for path in folder.glob("*/*/evaluate/scores.json"):
        systems = json.loads(path.read_text(encoding="utf-8"))["systems"]
        names = (*LANGUAGES, "all")
        change(path, systems={name: dict.fromkeys(names, found["all"]) for name, found in systems.items()})
    for path in folder.glob("*/*/evaluate/predictions.jsonl"):
        rows = [json.loads(line) for line in path.open(encoding="utf-8")]
        rows = [
            row
            | {"source": "слово " * 200, "prediction": row["prediction"] + " " + "ж" * 300, "id": "x" * 200 + str(n)}
            for n, row in enumerate(rows)
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    verdict = json.loads((folder / "verdict.json").read_text(encoding="utf-8"))
    languages = [
        {**item, "language": language, "documents": 8}
        for item in (verdict, *verdict["comparisons"]) for language in LANGUAGES
    ]  # fmt: skip
    change(folder / "verdict.json", languages=languages)
    return write(folder).as_uri()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", ["phone", "desktop"])
def test_it_fits_and_is_read(visit, address, size, theme):
    page = visit(address, size=size, theme=theme)
    width = {"phone": 390, "desktop": 1280}[size]
    assert page.evaluate("[innerWidth, document.documentElement.scrollWidth]") == [width, width]
    assert page.evaluate(OUTSIDE_BOX) == []
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate(OUTSIDE_BOX) == []
    assert page.evaluate(UNREACHABLE) == []
    if size == "desktop":
        assert page.evaluate(SCROLLED) == []
    else:
        page.set_viewport_size({"width": 320, "height": 568})
        assert page.evaluate("document.documentElement.scrollWidth") == 320
    assert page.evaluate(PALE, 4.5) == []


def test_paper_has_all_of_every_table_and_what_is_folded_on_the_screen(visit, address):
    page = visit(address)
    page.set_viewport_size({"width": 718, "height": 1000})  # A4 within Chromium's margins
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollWidth") == 718
    cut = "(one) => one.getBoundingClientRect().right > 718.5 || one.getBoundingClientRect().height === 0"
    assert page.evaluate(f"[...document.querySelectorAll('table, pre, .plot, p')].filter({cut}).length") == 0
    assert page.pdf(format="A4").startswith(b"%PDF")


def test_it_is_walked_through_by_keyboard(visit, address):
    page = visit(address, size="desktop")
    page.set_viewport_size({"width": 600, "height": 800})  # where some tables scroll
    wanted = page.evaluate(
        """() => [...document.querySelectorAll('a, summary, .scroll, pre')].filter((one) => one.checkVisibility()
            && (one.matches('a, summary') || one.scrollWidth > one.clientWidth + 0.5))
            .map((one, n) => { one.dataset.n = n; }).length"""
    )
    reached, unseen = set(), []
    for _ in range(3 * wanted):
        page.keyboard.press("Tab")
        place, outline = page.evaluate(
            "[document.activeElement.dataset.n, getComputedStyle(document.activeElement).outlineStyle]"
        )
        reached.add(place)
        unseen += [place] * (place is not None and outline == "none")
    assert len(reached - {None}) == wanted > 20 and unseen == []
    folded = page.locator("details:not([open]) > summary").first
    folded.focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.parentElement.open") is True
