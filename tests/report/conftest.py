"""A complete made-up run, and what reads its page. All numbers here are invented; they only look like a run's."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from polygraft.report import write

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


@pytest.fixture(scope="session", name="make_run")
def _make_run() -> Callable[..., Path]:
    return make_run


@pytest.fixture(scope="session", name="Balance")
def _balance() -> type[Balance]:
    return Balance


@pytest.fixture(scope="session", name="assert_well_formed")
def _assert_well_formed() -> Callable[[str], Balance]:
    return assert_well_formed


@pytest.fixture(scope="session")
def change() -> Callable[..., None]:
    """Sets keys of a JSON file."""

    def _change(path: Path, **values: Any) -> None:
        dump(path, json.loads(path.read_text(encoding="utf-8")) | values)

    return _change


@pytest.fixture(scope="session")
def cut() -> Callable[..., None]:
    """Removes the files of a run that match any of the patterns."""

    def _cut(root: Path, *patterns: str) -> None:
        for pattern in patterns:
            found = list(root.glob(pattern))
            assert found, pattern
            for path in found:
                path.unlink()

    return _cut


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Path:
    """A complete run with three seeds, and its report; tests leave it as it is."""
    return make_run(tmp_path_factory.mktemp("runs") / "demo", [1, 2, 3])


@pytest.fixture(scope="session")
def page(run) -> str:
    return write(run).read_text(encoding="utf-8")
