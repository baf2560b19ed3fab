"""The whole page: what it leads with, that it stands alone, that nothing from files can break it."""

from __future__ import annotations

import re

import pytest

from polygraft.errors import DataError
from polygraft.report import write


def test_page_leads_with_the_verdict_and_shows_every_arm(page, assert_well_formed):
    assert_well_formed(page)
    assert page.index("The detour through XLM-R made no difference") < page.index(">22.6<span")
    assert '<span class="badge equivalent">= equivalent</span>' in page
    scores = page[page.index('id="scores"') : page.index('id="losses"')]
    for arm, chrf in (("plain", "17.4"), ("direct", "22.6"), ("detour", "23.1"), ("lead baseline", "24.8")):
        assert f">{arm}</span>" in scores and chrf in scores
    assert page.count(">0.044<") == 3 and "p = 0.030" in page  # Holm-adjusted but for the verdict
    assert "22.0 to 24.2" in scores  # detour's chrF++ interval, the mean of its seeds'
    assert "seeds 4.260 to 4.320" in scores


def test_page_is_self_contained(page, assert_well_formed):
    parsed = assert_well_formed(page)
    for tag, attributes in parsed.elements:
        assert tag not in ("script", "link", "img", "iframe", "object", "embed", "base")
        assert not any(name.startswith("on") for name in attributes), attributes
        for name in ("src", "href", "xlink:href", "srcset", "data", "action"):
            assert (attributes.get(name) or "#").startswith("#")
    styles = "".join(re.findall(r"<style>.*?</style>", page, re.DOTALL)) + "".join(re.findall(r'style="[^"]*"', page))
    assert "@import" not in styles and "//" not in styles and not re.search(r"url\((?!#)", page)
    assert "default-src 'none'" in page


def test_page_is_small_and_repeatable(run, page):
    assert len(page.encode()) < 600_000
    assert write(run).read_text(encoding="utf-8") == page
    assert [path.name for path in run.iterdir() if "report" in path.name] == ["report.html"]


def test_page_with_large_inputs_stays_below_the_limit(tmp_path, make_run):
    large = make_run(tmp_path / "large", [1, 2, 3, 4, 5], documents=400)
    assert write(large).stat().st_size < 1_500_000


def test_everything_from_files_is_escaped(tmp_path, make_run, assert_well_formed):
    evil = "<script>alert(1)</script><b \"x\" 'y'>&amp; $x$ {{ 7*7 }}\u2028\x1b"
    html = write(make_run(tmp_path / "evil", [1], evil=evil)).read_text(encoding="utf-8")
    assert "<script" not in html and "<b " not in html and " 49 " not in html
    text = assert_well_formed(html).text
    assert text.count("<script>alert(1)</script>") > 40 and "&amp; $x$ {{ 7*7 }}" in text


def test_not_a_folder_and_not_writable(tmp_path, make_run):
    with pytest.raises(DataError, match="nowhere is not a folder"):
        write(tmp_path / "nowhere")
    root = make_run(tmp_path / "run", [1])
    (root / "report.html").mkdir()  # os.replace cannot put a file here, whoever runs the test
    with pytest.raises(OSError, match=r"report\.html"):
        write(root)
    assert list(root.glob(".report*")) == []
