"""The report and the model card, on made-up runs. All numbers here are invented; they only look like a run's."""

from __future__ import annotations

import json
import math
import random
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from polygraft.errors import DataError
from polygraft.report import formats, model_card, write, write_model_card
from polygraft.report.plots import _spread, _thinned
from polygraft.report.scores import choose

ARMS = {
    "plain": ["finetune", "evaluate"],
    "direct": ["transfer", "adapt_target", "finetune", "evaluate"],
    "detour": ["adapt", "transfer", "adapt_target", "finetune", "evaluate"],
}
LOSS = {"plain": 4.62, "direct": 4.33, "detour": 4.29}
CHRF = {"plain": 17.4, "direct": 22.6, "detour": 23.1}
TEXTS = [
    ("Бібліотека для читання та запису стиснених файлів. Вона підтримує багато форматів, працює без графіки.\n"
     "Цей пакунок містить файли, потрібні для збирання програм, які використовують бібліотеку.",
     "бібліотека для стиснених файлів"),
    ("Невеликий редактор текстових файлів з підсвічуванням синтаксису.", "простий редактор тексту"),
    ("Програма показує стан мережі та записує його до журналу. Підтримуються поширені протоколи. " * 8,
     "спостереження за мережею"),
]  # fmt: skip


def dump(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def dump_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def metrics_of(rng: random.Random, first: float, last: float, tokens: int, masked: bool) -> list[dict[str, Any]]:
    """A falling loss with noise: 200 training records and 5 evaluations."""
    rows: list[dict[str, Any]] = []
    for index in range(201):
        share = index / 200
        loss = last + (first - last) * math.exp(-4 * share)
        row = {"step": index, "tokens": int(tokens * share), "seconds": 20 * share}
        if index % 50 == 0:
            extra = {"eval_masked_loss": loss + 0.4} if masked else {}
            rows.append({**row, "eval_loss": loss + 0.05, **extra})
        if index:
            rows.append({**row, "loss": loss + rng.gauss(0, 0.12), "learning_rate": 1e-4 * (1 - share)})
    return rows


def settings_of(stage: str) -> dict[str, Any]:
    budget = {"epochs": None, "steps": None, "tokens": 150000, "minutes": None, "flops": None}
    training = {"budget": budget, "learning_rate": 0.0005, "lr_scheduler_type": "linear", "precision": "auto"}
    own: dict[str, dict[str, Any]] = {
        "adapt": {"objective": "mlm", "mlm_probability": 0.15},
        "transfer": {"method": "embeddings", "mode": "repair", "ridge_lambda": 1.0},
        "adapt_target": {"objective": "denoising", "mask_ratio": 0.35, "poisson_lambda": 3.5},
        "finetune": {"max_source_length_tokens": 128, "label_smoothing_factor": 0.0},
        "evaluate": {"num_beams": 2, "max_new_tokens": 24, "no_repeat_ngram_size": 3, "lead_tokens": 16},
    }
    return own[stage] if stage in ("transfer", "evaluate") else {**training, **own[stage]}


def write_stage(folder: Path, arm: str, seed: int, stage: str, rng: random.Random) -> None:
    first, last = {"adapt": (6.2, 4.9), "adapt_target": (7.9, 4.8), "finetune": (6.4, LOSS[arm])}.get(stage, (0, 0))
    result: dict[str, Any] = {}
    if first:
        tokens = 80000 if arm == "detour" and stage.startswith("adapt") else 150000
        first -= 1.4 * (stage == "finetune" and arm != "plain")
        dump_lines(folder / stage / "metrics.jsonl", metrics_of(rng, first, last, tokens, stage == "adapt_target"))
        result = {"steps": 200, "tokens": tokens, "flops": tokens * 2.6e7, "train_seconds": 19.0, "train_loss": last,
                  "eval_loss": last + 0.07, "eval_loss_first": first}  # fmt: skip
    if stage == "transfer":
        write_transfer(folder / stage, arm, seed)
        mode = "repair" if arm == "detour" else "recentre"
        result = {"method": "embeddings", "mode": mode, "rows": {"dead": 1204, "learned": 6788}, "plan": "plan.json"}
        result["diagnostics"] = {"source_reliance": 0.21}
    record = {
        "stage": stage, "status": "done", "fingerprint": f"{stage}-{arm}-{seed}",
        "settings": {**settings_of(stage), "seed": seed},
        "inputs": {"polygraft/nano-mbart": "5e0c0ffee5e0c0ffee", "file:polygraft/sample/uk/train.jsonl": "0dd0dd0dd0"},
        "data": [{"train_file": "polygraft/sample/uk/train.jsonl", "source_lang": "uk", "test_file": None}],
        "versions": {"polygraft": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"}, "git_commit": "0123abc",
        "machine": {"platform": "Linux-6.1-x86_64", "python": "3.11.9", "cpus": 2, "device": "cpu"},
        "started": f"2026-01-02T03:{10 + seed}:05+00:00", "seconds": 21.4 if first else 3.2,
        "peak_memory_bytes": 812_000_000, "result": result,
    }  # fmt: skip
    dump(folder / stage / "stage.json", record)


def write_transfer(folder: Path, arm: str, seed: int) -> None:
    row = {"tensor": "model.shared.weight", "transform": "keep", "ids": [[0, 3]]}
    entries = [
        {**row, "token_class": "special", "rows": 4, "origin": "target", "reason": "both models know them"},
        {**row, "token_class": "learned", "rows": 6788, "origin": "target", "reason": "seen in the target's training"},
        {**row, "token_class": "dead", "rows": 1204, "origin": "source, mapped", "transform": "ridge, centred, norm",
         "reason": "the target never learned them"},
        *({"tensor": f"model.encoder.layers.{i}.fc1.weight", "token_class": "whole tensor", "rows": None, "ids": None,
           "origin": "target", "transform": "keep", "reason": "not part of this method"} for i in range(6)),
    ]  # fmt: skip
    tied = {"lm_head.weight": "model.shared.weight", "model.encoder.embed_tokens.weight": "model.shared.weight"}
    plan = {"entries": entries, "tied": tied, "figures": {"dead_rows_drift_share": 0.88}, "warnings": []}
    dump(folder / "plan.json", plan)
    dump(
        folder / "diagnostics.json",
        {
            "heldout_r2": 0.412 + seed / 100,
            "source_reliance": 0.21,
            "dead_rows": 1204,
            "dead_rows.CYRILLIC": 988,
            "dead_rows.HANGUL": 216,
            "mean_pairwise_cosine.dead_before": 0.884,
            "mean_pairwise_cosine.dead_after": 0.041,
            "own_invention": 3,
        },
    )


def scores_of(arm: str, shift: float, languages: list[str], documents: int) -> dict[str, Any]:
    def entry(score: float, half: float) -> dict[str, float]:
        return {"score": score + shift, "low": score + shift - half, "high": score + shift + half}

    model = {"chrf++": entry(CHRF[arm], 1.1), "rougeL": entry(CHRF[arm] - 9, 1.3), "copy_rate": entry(0.4, 0.02),
             "length_ratio": entry(0.97, 0.02), "loss_per_token": entry(LOSS[arm], 0.06)}  # fmt: skip
    lead = {
        "chrf++": {"score": 24.8, "low": 23.9, "high": 25.9},
        "rougeL": {"score": 14.2, "low": 13.0, "high": 15.5},
        "copy_rate": {"score": 1.0, "low": 1.0, "high": 1.0},
        "length_ratio": {"score": 2.1, "low": 2.0, "high": 2.2},
    }
    signature = {"chrf++": "nrefs:1|case:mixed|eff:yes|nc:6|nw:2|space:no|version:2.5", "rougeL": "tok:unicode"}
    names = [*languages, "all"]
    return {
        "documents": documents,
        "signature": signature,
        "systems": {"model": dict.fromkeys(names, model), "lead": dict.fromkeys(names, lead)},
    }


def comparison(treatment: str, control: str, metric: str, effect: float, half: float, word: str) -> dict[str, Any]:
    return {
        "word": word, "treatment": treatment, "control": control, "metric": metric, "effect": effect,
        "low": effect - half, "high": effect + half, "confidence": 0.95, "p_value": 0.03, "p_value_holm": 0.0444,
    }  # fmt: skip


def verdict_of(seeds: list[int]) -> dict[str, Any]:
    loss = "loss per reference token (nats)"
    return {
        **comparison("detour", "direct", loss, -0.041, 0.028, "equivalent"),
        "sentence": "The detour through XLM-R made no difference that matters: its loss was 0.041 nats per token "
        "lower than that of direct adaptation, within the margin of 0.05.",
        "margin": 0.05, "seeds": seeds, "documents": 24,
        "comparisons": [
            comparison("direct", "plain", loss, -0.29, 0.05, "helped"),
            comparison("detour", "plain", loss, -0.33, 0.05, "helped"),
            comparison("detour", "direct", "chrF++", 0.5, 1.2, "not enough evidence"),
        ],
        "cost": {"plain": {"seconds": 0.0, "flops": 0.0, "tokens": 0},
                 "direct": {"seconds": 24.6, "flops": 3.9e12, "tokens": 150000},
                 "detour": {"seconds": 46.0, "flops": 4.1e12, "tokens": 160000}},
    }  # fmt: skip


def make_run(
    root: Path, seeds: list[int], languages: list[str] | None = None, documents: int = 24, evil: str = ""
) -> Path:
    """Write the folder of a complete run; `evil` is put wherever a user's text can come in."""
    rng = random.Random(7)
    codes = languages or ["uk_UA"]
    recipe: dict[str, Any] = {
        "name": "demo" + evil, "seeds": seeds, "source": "polygraft/nano-xlmr", "target": "polygraft/nano-mbart",
        "pairs": {"train_file": "polygraft/sample/uk/train.jsonl"}, "finetune": {"budget": {"epochs": 3}},
        "verdict": {"treatment": "detour", "control": "direct"},
        "arms": {arm: {stage: {} for stage in stages[:-2]} for arm, stages in ARMS.items()},
    }  # fmt: skip
    root.mkdir(parents=True)
    (root / "recipe.yaml").write_text(yaml.safe_dump(recipe, allow_unicode=True, sort_keys=False), encoding="utf-8")
    for arm, stages in ARMS.items():
        for seed in seeds:
            folder = root / arm / f"seed-{seed}"
            for stage in stages:
                write_stage(folder, arm, seed, stage, rng)
            dump(folder / "evaluate" / "scores.json", scores_of(arm, 0.03 * (seed - 2), codes, documents))
            predictions = []
            for index in range(documents):
                source, reference = TEXTS[index % len(TEXTS)]
                predictions.append(
                    {"id": f"uk-{index:04d}{evil}", "lang": codes[index % len(codes)], "source": source + evil,
                     "reference": reference + evil, "prediction": f"{reference} {arm}{evil}" * (index % 7 != 3),
                     "lead": source[:50] + evil, "loss_nats": 8 * (LOSS[arm] + rng.gauss(0, 0.5)),
                     "reference_tokens": 8}
                )  # fmt: skip
            dump_lines(folder / "evaluate" / "predictions.jsonl", predictions)
    verdict = verdict_of(seeds)
    verdict["sentence"] += evil
    dump(root / "verdict.json", verdict)
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "demo", [1, 2, 3])


@pytest.fixture(scope="module")
def page(run) -> str:
    return write(run).read_text(encoding="utf-8")


class Balance(HTMLParser):
    """Collects elements, ids and texts, and every tag that is closed wrongly or never."""

    VOID = frozenset(("meta", "br", "img", "link", "hr", "input", "col", "wbr"))

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def assert_well_formed(html: str) -> Balance:
    parsed = Balance(html)
    assert parsed.wrong == [] and parsed.open == []
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    referred = {
        value for tag, attributes in parsed.elements if (value := attributes.get("href")) and tag in ("a", "use")
    }
    referred |= {"#" + name for name in re.findall(r"url\(#([^)]+)\)", html)}
    assert {name[1:] for name in referred} <= set(ids)
    return parsed


# ---------------------------------------------------------------- the whole page


def test_page_leads_with_the_verdict_and_shows_every_arm(page):
    assert_well_formed(page)
    assert page.index("The detour through XLM-R made no difference") < page.index(">22.6<span")
    assert '<span class="badge equivalent">= equivalent</span>' in page
    scores = page[page.index('id="scores"') : page.index('id="losses"')]
    for arm, chrf in (("plain", "17.4"), ("direct", "22.6"), ("detour", "23.1"), ("lead baseline", "24.8")):
        assert f">{arm}</span>" in scores and chrf in scores
    assert page.count(">0.044<") == 3 and "p = 0.030" in page  # Holm-adjusted but for the verdict
    assert "22.0 to 24.2" in scores  # detour's chrF++ interval, the mean of its seeds'
    assert "seeds 4.260 to 4.320" in scores


def test_page_shows_settings_versions_and_machine(page):
    text = assert_well_formed(page).text
    for said in ("train_file: polygraft/sample/uk/train.jsonl", "poisson_lambda", "budget.tokens", "5.23.0", "0123abc",
                 "Linux-6.1-x86_64", "2026-01-02 03:11:05 UTC", "812 MB", "3.9 TFLOP"):  # fmt: skip
        assert said in text, said
    assert "polygraft/nano-mbart checkpoint, fingerprint 5e0c0ffee5e0 " in text
    assert "Fine-tuning: plain (3 seeds 1, 2, 3); direct (3 seeds 1, 2, 3); detour (3 seeds 1, 2, 3)" in text
    assert "budget.epochs" not in text  # a unit that was not given is no setting


def test_page_explains_the_transfer(page):
    transfer = page[page.index('id="transfer"') : page.index('id="samples"')]
    for said in ("0.422", "0.432", "0.442", "the target never learned them", "The 6 whole tensors", "ridge, centred"):
        assert said in transfer, said
    assert "model.shared.weight is one tensor with lm_head.weight, model.encoder.embed_tokens.weight" in transfer


def test_page_is_self_contained(page):
    parsed = assert_well_formed(page)
    for tag, attributes in parsed.elements:
        assert tag not in ("script", "link", "img", "iframe", "object", "embed", "base")
        assert not any(name.startswith("on") for name in attributes), attributes
        for name in ("src", "href", "xlink:href", "srcset", "data", "action"):
            assert (attributes.get(name) or "#").startswith("#")
    styles = "".join(re.findall(r"<style>.*?</style>", page, re.DOTALL)) + "".join(re.findall(r'style="[^"]*"', page))
    assert "@import" not in styles and "//" not in styles and not re.search(r"url\((?!#)", page)
    assert "default-src 'none'" in page


def test_plots_are_themed_text_not_pixels(page):
    plots = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(plots) == 1 + 3 + 4  # verdict; three metrics; MLM, denoising twice, fine-tuning
    drawn = "".join(plots)
    assert re.findall(r"#[0-9a-f]{6}", drawn) == []  # every colour is a variable that dark mode changes
    assert "DejaVu" not in drawn and all('role="img"' in plot and "aria-label" in plot for plot in plots)
    assert ">detour</text>" in drawn and ">equivalent within ±0.05</text>" in drawn
    declared = set(re.findall(r"(--[a-z0-9-]+):", page))
    assert set(re.findall(r"var\((--[a-z0-9-]+)\)", drawn)) <= declared


def test_page_is_small_and_repeatable(run, page):
    assert len(page.encode()) < 600_000
    assert write(run).read_text(encoding="utf-8") == page
    assert [path.name for path in run.iterdir() if "report" in path.name] == ["report.html"]


def test_page_with_large_inputs_stays_below_the_limit(tmp_path):
    large = make_run(tmp_path / "large", [1, 2, 3, 4, 5], documents=400)
    assert write(large).stat().st_size < 1_500_000


def test_everything_from_files_is_escaped(tmp_path):
    evil = "<script>alert(1)</script><b \"x\" 'y'>&amp; $x$ {{ 7*7 }}\u2028\x1b"
    html = write(make_run(tmp_path / "evil", [1], evil=evil)).read_text(encoding="utf-8")
    assert "<script" not in html and "<b " not in html and " 49 " not in html
    text = assert_well_formed(html).text
    assert text.count("<script>alert(1)</script>") > 40 and "&amp; $x$ {{ 7*7 }}" in text


@pytest.mark.parametrize("name", ["<script>alert(1)", "a$b_{$", "ліфт", "移植", "x\x07y", "a&b"])
def test_arm_names_are_escaped_in_plots(tmp_path, name):
    root = make_run(tmp_path / "run", [1])
    (root / "detour").rename(root / name)
    recipe = yaml.safe_load((root / "recipe.yaml").read_text(encoding="utf-8"))
    recipe["arms"][name] = recipe["arms"].pop("detour")
    (root / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    html = write(root).read_text(encoding="utf-8")
    assert "<script" not in html
    drawn = "".join(words for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL) for words in Balance(svg).words)
    assert name.replace("\x07", "")[:12] in drawn
    assert_well_formed(html)


@pytest.mark.parametrize(
    ("word", "badge"),
    [("helped", "▲ helped"), ("hurt", "▼ hurt"), ("not enough evidence", "? not enough evidence"), ("odd", "odd")],
)
def test_badge_names_the_word_with_a_sign(tmp_path, word, badge):
    root = make_run(tmp_path / "run", [1])
    dump(root / "verdict.json", verdict_of([1]) | {"word": word, "p_value": None, "margin": None})
    assert f">{badge}</span>" in write(root).read_text(encoding="utf-8")


@pytest.mark.parametrize(("metric", "side"), [("loss per reference token (nats)", "below"), ("chrF++", "above")])
def test_direction_follows_the_metric(tmp_path, metric, side):
    root = make_run(tmp_path / "run", [1])
    dump(root / "verdict.json", verdict_of([1]) | {"metric": metric})
    html = write(root).read_text(encoding="utf-8")
    assert f"{side} 0 favours detour" in html
    assert ("← better" if side == "below" else "better →") in html


def test_several_languages_have_a_table_each(tmp_path):
    html = write(make_run(tmp_path / "run", [1], languages=["uk_UA", "da_DK"])).read_text(encoding="utf-8")
    scores = html[html.index('id="scores"') : html.index('id="losses"')]
    assert re.findall(r"<h3>(.*?)</h3>", scores) == ["All languages", "da_DK", "uk_UA"]
    assert 'lang="da-DK"' in html


# ---------------------------------------------------------------- missing pieces


def cut(root: Path, *patterns: str) -> None:
    for pattern in patterns:
        found = list(root.glob(pattern))
        assert found, pattern
        for path in found:
            path.unlink()


@pytest.mark.parametrize(
    ("patterns", "said"),
    [
        (["verdict.json"], "has not reached its verdict yet"),
        (["detour/*/evaluate/*"], "Arm detour, seed 1, is incomplete: evaluate (unfinished)."),
        (["*/*/evaluate/scores.json"], "No arm has been evaluated yet."),
        (["*/*/evaluate/predictions.jsonl"], "No outputs yet"),
        (["*/*/*/metrics.jsonl"], "No training stage has logged a loss yet."),
        (["*/*/transfer/*"], "none has got that far"),
        (["*/*/transfer/plan.json"], "Embedding rows by class"),
        (["recipe.yaml"], "recipe.yaml is missing."),
        (["*/*/*/stage.json"], "finetune (unfinished)"),
        (["*/*/*/*", "verdict.json", "recipe.yaml"], "There is no recipe.yaml."),
    ],
)
def test_missing_files_are_said_plainly(tmp_path, patterns, said):
    root = make_run(tmp_path / "run", [1])
    cut(root, *patterns)
    assert said in assert_well_formed(write(root).read_text(encoding="utf-8")).text


def test_diagnostics_may_stand_in_the_stage_result(tmp_path):
    root = make_run(tmp_path / "run", [1])
    cut(root, "*/*/transfer/diagnostics.json")
    assert "<code>source_reliance</code>" in write(root).read_text(encoding="utf-8")


def test_single_arm_run(tmp_path):
    root = tmp_path / "single"
    (make_run(tmp_path / "whole", [1]) / "plain").rename(tmp_path / "main")
    root.mkdir()
    (tmp_path / "main").rename(root / "main")
    recipe = {"name": "single", "pairs": {"train_file": "x.jsonl"}, "finetune": {"budget": {"steps": 5}}}
    (root / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    parsed = assert_well_formed(write(root).read_text(encoding="utf-8"))
    assert "single arm, so there is nothing to compare" in parsed.text and ">no verdict<" not in parsed.text
    assert "What is missing" not in parsed.text


def test_an_empty_folder_and_a_run_not_started(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "recipe.yaml is missing." in write(tmp_path / "empty").read_text(encoding="utf-8")
    (tmp_path / "empty" / "recipe.yaml").write_text("name: empty\nseeds: [1, 2]\narms: {a: null, b: {}}\n")
    text = assert_well_formed(write(tmp_path / "empty").read_text(encoding="utf-8")).text
    assert "Arm b, seed 2, is incomplete: finetune (not run), evaluate (not run)." in text


@pytest.mark.parametrize(
    "broken", ["{", "[1, 2]", '"text"', "null", "\xff", '{"systems": [1], "entries": 3, "word": 1}']
)
def test_broken_files_never_crash(tmp_path, broken):
    root = make_run(tmp_path / "run", [1])
    for path in [*root.glob("*/*/*/*"), *root.glob("*.*")]:
        path.write_bytes(broken.encode("latin-1"))
    assert_well_formed(write(root).read_text(encoding="utf-8"))


def test_strange_numbers_never_crash(tmp_path):
    root = make_run(tmp_path / "run", [1])
    for path in root.glob("*/*/*/*"):
        text = path.read_text(encoding="utf-8")
        path.write_text(
            re.sub(r'("(loss|score|low|eval_loss|seconds|tokens)"): [\d.]+', r"\1: NaN", text), encoding="utf-8"
        )
    dump(root / "verdict.json", verdict_of([1]) | {"effect": float("nan"), "low": float("inf")})
    html = write(root).read_text(encoding="utf-8")
    assert_well_formed(html)
    # The settings say what the file says; nothing that is computed may be NaN.
    assert "nan" not in Balance(html[html.index('id="scores"') : html.index('id="settings"')]).text.lower()


def test_one_broken_line_is_left_out_and_said(tmp_path):
    root = make_run(tmp_path / "run", [1])
    path = root / "plain" / "seed-1" / "evaluate" / "predictions.jsonl"
    path.write_text(path.read_text(encoding="utf-8") + '{"id": "half', encoding="utf-8")
    said = "plain/seed-1/evaluate/predictions.jsonl has 1 broken line, left out."
    assert said in write(root).read_text(encoding="utf-8")


def test_a_running_stage_is_said_and_counts_as_unfinished(tmp_path):
    root = make_run(tmp_path / "run", [1])
    path = root / "detour" / "seed-1" / "finetune" / "stage.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    del record["result"], record["seconds"], record["peak_memory_bytes"]
    dump(path, record | {"status": "running"})
    assert "Arm detour, seed 1, is incomplete: finetune (running)." in write(root).read_text(encoding="utf-8")


def test_without_a_verdict_costs_are_summed_for_finished_arms_only(tmp_path):
    root = make_run(tmp_path / "run", [1])
    cut(root, "verdict.json", "detour/*/adapt_target/stage.json")
    text = assert_well_formed(write(root).read_text(encoding="utf-8")).text
    costs = text[text.index("What each arm cost") : text.index("What is missing")]
    assert (
        f"plain 0.0 s 0 0 FLOP direct 25 s 150 k 3.9 TFLOP detour {formats.MISSING} {formats.MISSING} {formats.MISSING}"
        in costs
    )


def test_unequal_test_sets_are_said(tmp_path):
    root = make_run(tmp_path / "run", [1])
    dump(root / "plain" / "seed-1" / "evaluate" / "scores.json", scores_of("plain", 0, ["uk_UA"], 23))
    assert "scored on different numbers of documents (23, 24)" in write(root).read_text(encoding="utf-8")


def test_shared_stages_are_marked_once(tmp_path):
    root = make_run(tmp_path / "run", [1])
    for arm in ("direct", "detour"):
        path = root / arm / "seed-1" / "adapt_target" / "stage.json"
        dump(path, json.loads(path.read_text(encoding="utf-8")) | {"fingerprint": "same"})
    html = write(root).read_text(encoding="utf-8")
    assert html.count("same as direct, seed 1") == 1
    assert ">direct, deto…</text>" in html  # one curve, labelled with both arms


def test_not_a_folder_and_not_writable(tmp_path):
    with pytest.raises(DataError, match="nowhere is not a folder"):
        write(tmp_path / "nowhere")
    root = make_run(tmp_path / "run", [1])
    (root / "report.html").mkdir()  # os.replace cannot put a file here, whoever runs the test
    with pytest.raises(OSError, match=r"report\.html"):
        write(root)
    assert list(root.glob(".report*")) == []


# ---------------------------------------------------------------- samples and formats


def test_samples_follow_the_hash_not_the_order():
    names = [("uk_UA", f"doc-{index}") for index in range(100)]
    assert choose(names) == choose(reversed(names))
    assert len(set(choose(names))) == 8 and choose(names) != names[:8]
    assert sorted(choose(names[:3])) == names[:3] and choose([]) == []


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        (formats.seconds, 0.44, "0.4 s"), (formats.seconds, 9.97, "10 s"), (formats.seconds, 185, "3 min 05 s"),
        (formats.seconds, 59.7, "1 min 00 s"), (formats.seconds, 3599.7, "1 h 00 min"),
        (formats.seconds, 7620, "2 h 07 min"), (formats.seconds, None, formats.MISSING),
        (formats.count, 812, "812"), (formats.count, 12345, "12.3 k"), (formats.count, 999_999, "1 M"),
        (formats.flops, 3.4e12, "3.4 TFLOP"), (formats.size, 812_000_000, "812 MB"),
        (formats.size, math.nan, formats.MISSING), (formats.decimal, -0.001, "0.00"),
        (formats.decimal, -1.5, formats.MINUS + "1.50"), (formats.decimal, True, formats.MISSING),
        (formats.p_value, 0.0004, "<0.001"), (formats.p_value, 0.0316, "0.032"),
        (formats.date, "2026-01-02T03:04:05.678+02:00", "2026-01-02 03:04:05 +02:00"),
        (formats.date, None, formats.MISSING), (formats.plain, {"a": [1]}, '{"a": [1]}'),
        (formats.plain, True, "yes"), (formats.plain, 1e-07, f"1e{formats.MINUS}07"),
    ],
)  # fmt: skip
def test_formats(function, value, text):
    assert function(value) == text


def test_labels_keep_their_distance_and_thinning_keeps_the_mean():
    placed = _spread([1.0, 1.01, 3.0], gap=0.5)
    assert placed[1] - placed[0] >= 0.5 - 1e-9 and placed[2] - placed[1] >= 0.5
    points = [(float(index), float(index % 7)) for index in range(1200)]
    thinned = _thinned(points)
    assert len(thinned) == 120
    assert sum(y for _, y in thinned) / 120 == pytest.approx(sum(y for _, y in points) / 1200)


# ---------------------------------------------------------------- the model card


def test_model_card_says_what_the_checkpoint_is(tmp_path):
    folder = make_run(tmp_path / "run", [1]) / "detour" / "seed-1"
    card = model_card(folder / "finetune", folder / "evaluate")
    matter = yaml.safe_load(card.split("---\n")[1])
    assert matter["language"] == ["uk"] and matter["base_model"] == "polygraft/nano-mbart"
    for said in ("# demo · detour", "uk/train.jsonl", "23.1", "22.0 to 24.2", "24.8", "nc:6", "learning_rate",
                 "Adapting the source (mlm)", "Transfer (repair)", "5.23.0", "24 test documents"):  # fmt: skip
        assert said in card, said
    assert "**all**" not in card  # one language
    assert model_card(folder / "finetune", folder / "evaluate") == card
    assert write_model_card(folder / "finetune", folder / "evaluate").read_text(encoding="utf-8") == card


def test_model_card_survives_missing_pieces_and_hides_absolute_paths(tmp_path):
    finetune, evaluate = tmp_path / "a" / "finetune", tmp_path / "a" / "evaluate"
    finetune.mkdir(parents=True)
    assert "has not been evaluated" in model_card(finetune, evaluate)
    inputs = {"/home/someone/models/mine": "0123", "file:/home/someone/a|b<i>.jsonl": "4567"}
    dump(finetune / "stage.json", {"inputs": inputs, "data": [{"train_file": "/home/someone/a|b<i>.jsonl"}]})
    card = model_card(finetune, evaluate)
    assert "/home" not in card and "`mine`" in card and "a\\|b&lt;i>.jsonl" in card


def test_model_card_code_runs_without_polygraft(tmp_path, tiny_mbart_dir):
    folder = make_run(tmp_path / "run", [1]) / "direct" / "seed-1"
    for path in tiny_mbart_dir.iterdir():
        path.rename(folder / "finetune" / path.name)
    card = model_card(folder / "finetune", folder / "evaluate")
    code = card.split("```python\n")[1].split("```")[0]
    assert len(code.strip().splitlines()) == 6 and "polygraft" not in code
    scope: dict[str, Any] = {}
    exec(code.replace("path/to/this/folder", str(folder / "finetune")), scope)
    assert scope["tokenizer"].src_lang == "uk_UA"  # from the data's "uk"
    assert scope["output"][0][1] == scope["tokenizer"].convert_tokens_to_ids("uk_UA")
    assert scope["output"].shape[1] <= 1 + 24  # max_new_tokens of the evaluation
