"""What is said of licences: a table of what a model is made from, and what follows by rule."""

from __future__ import annotations

import pytest

from polygraft.publishing.licences import (
    Origin,
    Terms,
    carried,
    conflicts,
    findings,
    is_hub_licence,
    licence,
    licence_of_text,
)

A, B = "the model `a`", "the text `b`"
CASES = {  # licences of a model and a text, the one chosen: how many conflicts, words of the first
    "all free": ("mit", "cc-by-4.0", "apache-2.0", 0, ""),
    "no commercial use": ("cc-by-nc-4.0", "mit", "mit", 1, "The model `a` is under `cc-by-nc-4.0`: no commercial use. "
                          "This model's, `mit`, does not say that."),
    "kept": ("cc-by-nc-4.0", "mit", "cc-by-nc-4.0", 0, ""),
    "kept by a stricter one": ("cc-by-nc-4.0", "mit", "cc-by-nc-sa-4.0", 0, ""),
    "of a text": ("mit", "cc-by-nc-4.0", "mit", 1, "The text `b` is under `cc-by-nc-4.0`: no commercial use."),
    "share alike": ("mit", "cc-by-sa-4.0", "mit", 1, "The text `b` is under `cc-by-sa-4.0`: what is made from it goes "
                    "under the same licence. This model's, `mit`, is another one."),
    "shared alike": ("mit", "cc-by-sa-4.0", "cc-by-sa-4.0", 0, ""),
    "both": ("cc-by-nc-sa-4.0", "mit", "mit", 2, "no commercial use"),
    "none chosen": ("gpl-3.0", "mit", None, 1, "The licence that is chosen has to keep to that."),
    "two that ask for themselves": ("gpl-3.0", "cc-by-sa-4.0", "gpl-3.0", 2, "The text `b` is under `cc-by-sa-4.0`"),
    "one that cannot be the other": ("cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-sa-4.0", 2, "no commercial use"),
    "no derivatives": ("cc-by-nd-4.0", "mit", "cc-by-nd-4.0", 1, "by which nothing made from it may be passed on"),
    "unknown": (None, None, "mit", 0, ""),
    "terms of its own": ("gemma", "mit", "mit", 0, ""),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_conflicts(case):
    model, text, chosen, count, said = CASES[case]
    found = list(conflicts([Origin("a", "model", model), Origin("b", "text", text)], chosen))
    assert len(found) == count, found
    assert said in "".join(found[:1])


def test_what_is_not_known_is_said():
    origins = [Origin("a", "model", None), Origin("b", "text", "gemma"), Origin("c", "text", None)]
    assert findings(origins, None) == [
        f"No licence is stated by {A} and the text `c`, neither beside it nor in the hub's cache. Unknown does not "
        "mean free: ask before you publish.",
        f"The rules do not know the terms of `gemma`, of {B}: read them before you publish.",
        "No licence is chosen for this model, so nobody knows whether they may use it. `--license` states one.",
    ]
    assert findings([Origin("a", "model", "mit")], "mit") == []
    assert findings([Origin("a", "model", "mit")], "house") == [
        "The rules do not know `house`: whether it agrees with the others is for you to find out."
    ]


CARRIED = {
    "of all models": (["mit", "mit"], [None], "mit"),
    "of the only one": (["apache-2.0"], ["cc0-1.0"], "apache-2.0"),
    "terms of its own": (["gemma"], [], "gemma"),
    "two": (["mit", "apache-2.0"], [], None),
    "one unknown": (["mit", None], [], None),
    "a text forbids it": (["mit"], ["cc-by-nc-4.0"], None),
    "it forbids itself": (["cc-by-nd-4.0"], [], None),
    "share alike": (["cc-by-sa-4.0", "cc-by-sa-4.0"], ["mit"], "cc-by-sa-4.0"),
    "nothing": ([], ["mit"], None),
}


@pytest.mark.parametrize("case", CARRIED)
def test_the_licence_that_is_taken_over(case):
    models, texts, expected = CARRIED[case]
    origins = [Origin(f"m{i}", "model", one) for i, one in enumerate(models)]
    assert carried(origins + [Origin(f"t{i}", "text", one) for i, one in enumerate(texts)]) == expected


@pytest.mark.parametrize(
    ("name", "terms"),
    {
        "CC-BY-NC-SA-4.0": Terms(non_commercial=True, share_alike=True),
        "cc-by-nc-nd-3.0": Terms(non_commercial=True, no_derivatives=True),
        "cc-by-4.0": Terms(),
        "lgpl-3.0": Terms(share_alike=True),
        "openrail": None,
        "mit, apache-2.0": None,
    }.items(),
)
def test_terms(name, terms):
    assert Terms.of(name) == terms


def test_names_that_the_hub_knows():
    names = ("mit", "gemma", "cc-by-nc-nd-4.0", "house", "mit, apache-2.0")
    assert [is_hub_licence(name) for name in names] == [True] * 3 + [False] * 2


def test_the_licence_of_a_text(tmp_path):
    assert licence_of_text("polygraft/sample/uk/train.parquet") == "each Debian package's own"
    assert licence_of_text(str(tmp_path / "train.jsonl")) is None
    (tmp_path / "README.md").write_text("---\nlicense: cc-by-sa-4.0\n---\n", encoding="utf-8")
    assert licence_of_text(str(tmp_path / "train.jsonl")) == "cc-by-sa-4.0"
    assert licence_of_text("hf://datasets/no/such:train") is None


CARDS = {
    "stated": ("---\nlicense: mit\n---\n# Card", "mit"),
    "several": ("---\nlicense: [mit, apache-2.0]\n---\n", "mit, apache-2.0"),
    "a name of its own": ("---\nlicense: other\nlicense_name: model-research\n---\n", "model-research"),
    "no front matter": ("# Card\nlicense: mit\n", None),
    "nothing in it": ("---\nlanguage: uk\n---\n", None),
    "broken": ("---\nlicense: [mit\n---\n", None),
    "no card": (None, None),
}


@pytest.mark.parametrize(("card", "stated"), CARDS.values(), ids=CARDS)
def test_licence(tiny_xlmr_dir, card, stated):
    if card is not None:
        (tiny_xlmr_dir / "README.md").write_text(card, encoding="utf-8")
    assert licence(str(tiny_xlmr_dir)) == stated


def test_licence_of_a_hub_name_from_the_cache(tmp_path, monkeypatch):
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    known = {("some/model", None), ("pinned/model", "v1")}

    def look(hub, file, revision, repo_type):
        return str(tmp_path / file) if (hub, revision) in known and repo_type == "model" else None

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", look)
    assert licence("some/model") == licence("pinned/model@v1") == "mit"
    assert licence("another/model") is None
