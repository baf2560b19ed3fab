"""The sample: spread over languages, whole words, every document as likely as any other."""

import json
from collections import Counter

import pytest

from polygraft.ranking import text as rank_text
from polygraft.ranking.text import read_texts
from polygraft.settings import TextData


@pytest.fixture
def sources(tmp_path):
    for language, number in (("uk", 30), ("ko", 3)):
        rows = [{"text": f"{language} {i}", "lang": language} for i in range(number)] + [{"text": " ", "lang": "uk"}]
        (tmp_path / f"{language}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return [TextData(train_file=str(tmp_path / f"{name}.jsonl"), lang_column="lang") for name in ("uk", "ko")]


@pytest.mark.parametrize(("wanted", "read"), [(10, [5, 3]), (40, [20, 3]), (2, [2, 2])])
def test_documents_are_spread_over_languages(sources, wanted, read):
    texts = read_texts(sources, wanted)
    assert [(one.language, one.documents) for one in texts] == [("uk", 30), ("ko", 3)]
    assert [len(one.scored) for one in texts] == read
    for one in texts:
        assert len(set(one.scored)) == len(one.scored)
        assert set(one.scored) <= set(one.counted)
        assert all(document.startswith(one.language) for document in one.counted)
    assert read_texts(sources, wanted) == texts


def test_every_document_is_as_likely(tmp_path, monkeypatch):
    monkeypatch.setattr(rank_text, "COUNTED_DOCUMENTS", 10)
    (tmp_path / "text.txt").write_text("\n".join(map(str, range(40))))
    seen = Counter()
    for seed in range(400):
        monkeypatch.setattr(rank_text, "SEED", seed)
        (one,) = read_texts([TextData(train_file=str(tmp_path / "text.txt"), lang="uk")], 4)
        assert one.documents == 40 and len(one.counted) == 10
        seen.update(one.scored)
    first, last = (sum(seen[str(i)] for i in part) for part in (range(20), range(20, 40)))
    assert sum(seen.values()) == 1600
    assert first / 1600 == pytest.approx(0.5, abs=0.04)  # 3 standard errors
    assert last == 1600 - first


def test_long_documents_are_cut_between_words(tmp_path):
    (tmp_path / "text.txt").write_text("слово  " * 1000 + "\n" + "長" * 3000, encoding="utf-8")
    (one,) = read_texts([TextData(train_file=str(tmp_path / "text.txt"), lang="uk")], 2)
    assert sorted(map(len, one.counted)) == [1997, 2000]
    assert sorted(map(len, one.scored)) == [395, 400]
    assert set(one.scored) == {" ".join(["слово"] * 66), "長" * 400}
