"""The tables of scores, which outputs are shown, and that a new score is one entry of METRICS."""

from __future__ import annotations

import json
import re

from polygraft.recipe.reading import load_recipe
from polygraft.report import model_card, write
from polygraft.report.samples import choose
from polygraft.scoring.bootstrap import mean_statistics, ratio_of_sums
from polygraft.scoring.metrics import METRICS, Metric
from polygraft.stages import evaluate


def test_a_new_score_is_a_function_and_an_entry(run, copy, monkeypatch, text_of):
    """From the table alone it gets into scores.json, the page and the model card."""

    def first_letters(rows):
        return mean_statistics([100.0 * (row.prediction[:1] == row.reference[:1]) for row in rows])

    metric = Metric(
        title="Initials", unit="percent of documents", better=1, places=2, statistics=first_letters,
        from_sums=ratio_of_sums, signature=lambda bootstrap, langs: f"initials|{bootstrap.signature}", main=True,
    )  # fmt: skip
    monkeypatch.setitem(METRICS, "initials", metric)
    recipe = load_recipe(run / "recipe.yaml")
    for folder in copy.glob("*/seed-*/evaluate"):
        tuned = run / folder.relative_to(copy).parent / "finetune"
        evaluate.run(recipe.evaluate, str(tuned), recipe.pairs, folder)
    folder = copy / "detour" / "seed-1"
    scores = json.loads((folder / "evaluate" / "scores.json").read_text(encoding="utf-8"))
    rows = [json.loads(line) for line in (folder / "evaluate" / "predictions.jsonl").open(encoding="utf-8")]
    lead = 100 * sum(row["lead"][0] == row["reference"][0] for row in rows) / len(rows)
    assert scores["systems"]["lead"]["all"]["initials"]["score"] == lead > 50
    assert scores["signature"]["initials"] == "initials|bs:1000|seed:12345"
    text = text_of(copy)
    assert text.count("Initials percent of documents, higher is better") == 3  # both tables, and a plot
    assert "Initials initials|bs:1000|seed:12345" in text
    card = model_card(folder)
    assert "| Initials (percent of documents, higher is better) | " in card and f" | {lead:.2f} | – |\n" in card


def test_several_languages_have_a_table_each(copy, change):
    for path in copy.glob("*/*/evaluate/scores.json"):
        systems = json.loads(path.read_text(encoding="utf-8"))["systems"]
        change(path, systems={name: {"da_DK": found["all"], **found} for name, found in systems.items()})
    html = write(copy).read_text(encoding="utf-8")
    scores = html[html.index('id="scores"') : html.index('id="losses"')]
    assert re.findall(r"<h3>(.*?)</h3>", scores) == ["All languages", "da_DK", "uk_UA"]
    assert 'lang="uk-UA"' in html
    card = model_card(copy / "detour" / "seed-1")
    assert re.findall(r"^\*\*(.*)\*\*$", card, re.MULTILINE) == ["da_DK", "uk_UA", "all"]


def test_unequal_test_sets_are_said(copy, change, text_of):
    change(copy / "plain" / "seed-1" / "evaluate" / "scores.json", documents=23)
    assert "scored on different numbers of documents (23, 24)" in text_of(copy)


def test_samples_follow_the_hash_not_the_order():
    names = [("uk_UA", f"doc-{index}") for index in range(100)]
    assert choose(names) == choose(reversed(names))
    assert len(set(choose(names))) == 8 and choose(names) != names[:8]
    assert sorted(choose(names[:3])) == names[:3] and choose([]) == []


def test_an_empty_output_and_a_long_source_are_shown_as_such(copy):
    for path in copy.glob("plain/*/evaluate/predictions.jsonl"):
        rows = [json.loads(line) for line in path.open(encoding="utf-8")]
        rows = [{**row, "prediction": " ", "source": "слово " * 200} for row in rows]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    html = write(copy).read_text(encoding="utf-8")
    samples = html[html.index('id="samples"') : html.index('id="cost"')]
    assert samples.count("empty output") == samples.count("<summary>the rest</summary>") == 8
