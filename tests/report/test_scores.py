"""The tables of scores, which outputs are shown, and that a new score is one entry of METRICS."""

from __future__ import annotations

import json
import re

import yaml

from polygraft.publishing.card import model_card
from polygraft.recipe.reading import load_recipe
from polygraft.report import write
from polygraft.report.folder import read_run
from polygraft.report.samples import choose
from polygraft.report.scores import MOST_COLUMNS, score_groups, score_tables
from polygraft.scoring.bootstrap import mean_statistics, ratio_of_sums
from polygraft.scoring.metrics import METRICS, Metric
from polygraft.stages import evaluate


def test_a_new_score_is_a_function_and_an_entry(run, copy, monkeypatch, text_of):
    """From the table alone it gets into scores.json, the page and the model card."""

    def first_letters(rows):
        return mean_statistics([100.0 * (row.prediction[:1] == row.reference[:1]) for row in rows])

    metric = Metric(
        title="Initials", unit="percent of documents", better=1, places=2, statistics=first_letters,
        from_sums=ratio_of_sums, signature=lambda bootstrap, langs: f"initials|{bootstrap.signature}",
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
    assert text.count("Initials percent of documents, higher is better") == 2  # both tables
    assert "Initials initials|bs:1000|seed:12345" in text
    card = model_card(folder / "finetune")
    assert "| Initials (percent of documents, higher is better) | " in card and f" | {lead:.2f} | – |\n" in card

    content = yaml.safe_load((copy / "recipe.yaml").read_text(encoding="utf-8"))
    content["verdict"]["metrics"] = ["initials"]
    (copy / "recipe.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    text = text_of(copy)
    assert text.count("Initials percent of documents, higher is better") == 3  # and a plot
    scored = text[text.index("Scores Means over seeds") :]
    assert scored.index("Initials") < scored.index("chrF++") and scored.index("Initials") < scored.index("Other scores")
    assert model_card(folder / "finetune").index("| Initials") < model_card(folder / "finetune").index("| chrF++")


def test_several_languages_have_a_table_each(copy, change):
    for path in copy.glob("*/*/evaluate/scores.json"):
        systems = json.loads(path.read_text(encoding="utf-8"))["systems"]
        change(path, systems={name: {"da_DK": found["all"], **found} for name, found in systems.items()})
    html = write(copy).read_text(encoding="utf-8")
    scores = html[html.index('id="scores"') : html.index('id="losses"')]
    assert re.findall(r"<h3>(.*?)</h3>", scores) == ["All languages", "da_DK", "uk_UA"]
    assert 'lang="uk-UA"' in html
    card = model_card(copy / "detour" / "seed-1" / "finetune")
    assert re.findall(r"^\*\*(.*)\*\*$", card, re.MULTILINE) == ["da_DK", "uk_UA", "all"]


def test_no_table_of_scores_is_wider_than_the_page(run):
    """So many columns fit beside the names at 1,280 pixels; all scores are in one of the tables."""
    read = read_run(run)
    groups = score_groups(read)
    assert [name for group in groups for name in group] == [*dict.fromkeys([*groups[0], *METRICS])]
    assert max(map(len, groups)) <= MOST_COLUMNS
    assert groups[0] == ["loss_per_token", "chrf++", "rougeL"]
    (shown,) = score_tables(read)
    rows = [[row["system"].name for row in group["rows"]] for group in shown["groups"]]
    assert rows[0] == ["plain", "detour", "lead baseline"]  # where references have no scores they have no row
    assert rows[-1] == ["plain", "detour", "lead baseline", "references"]


def test_translations_are_shown_by_direction_beside_the_copied_source(copy, change, text_of):
    for path in copy.glob("*/*/evaluate/scores.json"):
        systems = json.loads(path.read_text(encoding="utf-8"))["systems"]
        names = ("de_DE-uk_UA", "fr_XX-uk_UA", "all")
        change(path, systems={name: dict.fromkeys(names, found["all"]) for name, found in systems.items()})
    for path in copy.glob("*/*/evaluate/predictions.jsonl"):
        rows = [json.loads(line) for line in path.open(encoding="utf-8")]
        rows = [{**row, "source_lang": ("de_DE", "fr_XX")[i % 2]} for i, row in enumerate(rows)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    content = yaml.safe_load((copy / "recipe.yaml").read_text(encoding="utf-8"))
    content["evaluate"]["lead_tokens"] = 0
    (copy / "recipe.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    html = write(copy).read_text(encoding="utf-8")
    scores = html[html.index('id="scores"') : html.index('id="losses"')]
    assert re.findall(r"<h3>(.*?)</h3>", scores) == ["All languages", "de_DE → uk_UA", "fr_XX → uk_UA"]
    text = text_of(copy)
    assert "The copied source is the input as it is, untranslated; it needs no model." in text
    assert "lead baseline" not in text.replace("The lead baseline (the text's first words) has", "")  # of the verdict
    assert re.search(r"· (de_DE|fr_XX) → uk_UA", text) and 'lang="de-DE"' in html and 'lang="fr"' in html
    card = model_card(copy / "detour" / "seed-1" / "finetune")
    matter = yaml.safe_load(card.split("---\n")[1])
    assert matter["language"] == ["uk", "de", "fr"] and matter["pipeline_tag"] == "translation"
    assert "input de_DE, fr_XX, output uk_UA." in card and 'src_lang="de_DE", tgt_lang="uk_UA"' in card
    assert re.findall(r"^\*\*(.*)\*\*$", card, re.MULTILINE) == ["de_DE → uk_UA", "fr_XX → uk_UA", "all"]
    assert "| interval | copied source |" in card


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
