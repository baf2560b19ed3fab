"""The tables of scores, and which outputs are shown."""

from __future__ import annotations

import re

from polygraft.report import write
from polygraft.report.scores import choose


def test_several_languages_have_a_table_each(tmp_path, make_run):
    html = write(make_run(tmp_path / "run", [1], languages=["uk_UA", "da_DK"])).read_text(encoding="utf-8")
    scores = html[html.index('id="scores"') : html.index('id="losses"')]
    assert re.findall(r"<h3>(.*?)</h3>", scores) == ["All languages", "da_DK", "uk_UA"]
    assert 'lang="da-DK"' in html


def test_unequal_test_sets_are_said(tmp_path, make_run, change):
    root = make_run(tmp_path / "run", [1])
    change(root / "plain" / "seed-1" / "evaluate" / "scores.json", documents=23)
    assert "scored on different numbers of documents (23, 24)" in write(root).read_text(encoding="utf-8")


def test_samples_follow_the_hash_not_the_order():
    names = [("uk_UA", f"doc-{index}") for index in range(100)]
    assert choose(names) == choose(reversed(names))
    assert len(set(choose(names))) == 8 and choose(names) != names[:8]
    assert sorted(choose(names[:3])) == names[:3] and choose([]) == []
