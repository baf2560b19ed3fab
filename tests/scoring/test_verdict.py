"""verdict.py: from folders of predictions to verdict.json and its sentence."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from polygraft.errors import DataError
from polygraft.scoring import verdict
from polygraft.scoring.comparison import Comparison
from polygraft.settings import Verdict

ARMS = ["plain", "direct", "detour"]
SETTINGS = Verdict(treatment="detour", control="direct")
DOCUMENTS = 30


def write_run(run_dir, losses: dict[str, list[float]], quality: dict[str, str], noise: float = 0.05) -> None:
    """Write predictions of arms whose seeds have the given mean losses; `quality` says how good the texts are."""
    rng = np.random.default_rng(0)
    means_D = rng.normal(0, 0.5, DOCUMENTS)
    for arm, by_seed in losses.items():
        for seed, loss in enumerate(by_seed, 1):
            folder = run_dir / arm / f"seed-{seed}" / "evaluate"
            folder.mkdir(parents=True)
            loss_D = loss + means_D + rng.normal(0, noise, DOCUMENTS)
            rows = [row_of(i, quality[arm], float(loss_D[i])) for i in range(DOCUMENTS)]
            (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def row_of(i: int, quality: str, loss: float) -> dict:
    reference = f"бібліотека номер {i} для файлів"
    prediction = {"good": f"бібліотека номер {i} файлів", "poor": "пакунок"}[quality]
    tokens = 5 + i % 4
    return {
        "id": f"d{i}", "lang": "uk_UA", "source": f"довгий текст\u2028{i}", "reference": reference,
        "prediction": prediction, "lead": f"довгий текст {i} номер", "loss_nats": loss * tokens,
        "reference_tokens": tokens,
    }  # fmt: skip


FIVE = [1, 2, 3, 4, 5]
DIRECT = [2.00, 2.02, 1.98, 2.01, 1.99]
NOTHING = {arm: {"seconds": 0.0, "flops": 0.0, "tokens": 0.0} for arm in ARMS}
GOOD, POOR = dict.fromkeys(ARMS, "good"), dict.fromkeys(ARMS, "poor")


def losses_of(detour: list[float]) -> dict[str, list[float]]:
    return {"plain": [2.5, 2.52, 2.48, 2.5, 2.5][: len(detour)], "direct": DIRECT[: len(detour)], "detour": detour}


def test_helped_with_everything_in_verdict_json(tmp_path):
    write_run(tmp_path, losses_of([1.80, 1.82, 1.78, 1.81, 1.79]), POOR | {"detour": "good"})
    cost = {
        "plain": {"seconds": 0.0, "flops": 0.0, "tokens": 0.0},
        "direct": {"seconds": 60.0, "flops": 2e12, "tokens": 1000.0},
        "detour": {"seconds": 55.0, "flops": 2e12, "tokens": 1400.0},
    }
    found = verdict.judge(tmp_path, SETTINGS, ARMS, FIVE, cost)
    assert verdict.write(tmp_path, found) == found
    assert json.loads((tmp_path / "verdict.json").read_text("utf-8")) == found
    assert (found["word"], found["treatment"], found["control"]) == ("helped", "detour", "direct")
    assert found["metric"] == "loss per reference token (nats)"
    assert found["effect"] == pytest.approx(-0.2, abs=0.02)
    assert found["low"] < found["effect"] < found["high"] < 0
    assert (found["confidence"], found["margin"], found["seeds"], found["documents"]) == (0.95, 0.05, FIVE, DOCUMENTS)
    assert found["p_value"] < 0.001
    assert found["cost"] == cost
    assert found["lead"]["beaten_by"] == ["detour"]
    assert found["sentence"].startswith("'detour' helped: it is better than 'direct' (loss per reference token 1.")
    assert "below 0 is better; 30 documents, 5 seeds per arm)" in found["sentence"]
    assert "(the text's first words) has chrF++" in found["sentence"]
    assert ": 'detour' beats it (" in found["sentence"] and ", 'direct' falls short of it (" in found["sentence"]
    assert "shows nothing yet" not in found["sentence"]
    assert "'detour' 55 s and 2e+12 FLOPs, 'direct' 60 s and 2e+12 FLOPs." in found["sentence"]
    assert "Caution" not in found["sentence"]


def test_secondary_comparisons_are_holm_adjusted(tmp_path):
    write_run(tmp_path, losses_of([2.0, 2.01, 1.99, 2.02, 1.98]), GOOD | {"plain": "poor"})
    found = verdict.judge(tmp_path, SETTINGS, ARMS, FIVE, NOTHING)
    keys = [(item["treatment"], item["control"], item["metric"]) for item in found["comparisons"]]
    loss = "loss per reference token (nats)"
    assert keys == [
        ("direct", "plain", loss), ("detour", "plain", loss), ("detour", "direct", "chrF++"),
        ("detour", "direct", "ROUGE-L"),
    ]  # fmt: skip
    words = [item["word"] for item in found["comparisons"]]
    assert words == ["helped", "helped", "not enough evidence", "not enough evidence"]  # equal texts, no chrF++ margin
    assert found["comparisons"][2]["effect"] == 0.0
    for item in found["comparisons"]:  # of losses two things can be said, so that none is closed by one: all are of 4
        assert item["confidence"] == pytest.approx(1 - 0.05 / 4)
        assert item["p_value_holm"] == pytest.approx(min(1.0, 4 * item["p_value"]))
        assert (item["p_value_holm"] < 0.05) == (not item["low"] <= 0 <= item["high"])
    assert found["confidence"] == 0.95


def test_a_secondary_p_value_that_adjustment_undoes(tmp_path):
    """detour against plain is significant alone, not among four."""
    write_run(
        tmp_path, {"plain": [2.06, 2.1, 2.0, 2.05, 2.12], "direct": DIRECT, "detour": DIRECT[::-1]}, GOOD, noise=0.02
    )
    found = verdict.judge(tmp_path, SETTINGS, ARMS, FIVE, NOTHING)
    undone = [item for item in found["comparisons"] if item["p_value"] < 0.05 <= item["p_value_holm"]]
    assert undone
    assert {item["word"] for item in undone} == {"not enough evidence"}
    assert all(item["low"] <= 0 <= item["high"] for item in undone)


def test_what_is_said_of_one_comparison_narrows_the_next():
    """Two differences in chrF++ (no margin): the surer is of two, the other alone. A loss stays open: two claims."""
    sure, unsure = made_up(5.0, 1.0, None), made_up(2.2, 1.0, None)
    assert [round(one.confidence, 6) for one in verdict.together([unsure, sure])] == [0.95, 0.975]
    assert [one.word for one in verdict.together([unsure, sure])] == ["helped", "helped"]
    lost = made_up(5.0, 1.0, 0.05)
    assert [round(one.confidence, 6) for one in verdict.together([unsure, lost])] == [0.975, 0.975]
    both = made_up(0.03, 0.001, 0.05)  # within the margin and not 0: nothing more can be said
    assert [round(one.confidence, 6) for one in verdict.together([unsure, both])] == [0.95, 0.975]
    assert [one.word for one in verdict.together([unsure, both])] == ["helped", "equivalent"]


def made_up(effect: float, error: float, margin: float | None) -> Comparison:
    return Comparison("metric", 1, 0.95, margin, effect, error, 50.0, 2.0 + effect, 2.0, 5, 40)


@pytest.mark.parametrize(
    ("detour", "word", "says"),
    [
        ([2.3, 2.32, 2.28, 2.31, 2.29], "hurt", "'detour' hurt: it is worse than 'direct'"),
        (
            [2.0, 2.01, 1.99, 2.02, 1.98],
            "equivalent",
            "'detour' and 'direct' are equivalent: the interval of their difference lies within ±0.05 (",
        ),
        ([1.6, 2.5, 1.9, 2.3, 1.8], "not enough evidence", "Not enough evidence that 'detour' differs from 'direct'"),
    ],
)
def test_words_and_sentences(tmp_path, detour, word, says):
    write_run(tmp_path, losses_of(detour), POOR)
    found = verdict.judge(tmp_path, SETTINGS, ARMS, FIVE, NOTHING)
    assert found["word"] == word
    assert found["sentence"].startswith(says)
    assert "'detour' falls short of it (" in found["sentence"]
    assert "the generated text shows nothing yet: loss is the metric to go by" in found["sentence"]
    assert "Adaptation cost per seed: 'detour' nothing, 'direct' nothing." in found["sentence"]


def test_equivalent_says_so_when_the_difference_is_real(tmp_path):
    write_run(
        tmp_path, losses_of([1.972, 1.968, 1.97, 1.971, 1.969]) | {"direct": [2.0, 2.001, 1.999, 2.0, 2.0]}, GOOD, 0.0
    )
    found = verdict.judge(tmp_path, SETTINGS, ARMS, FIVE, NOTHING)
    assert found["word"] == "equivalent"
    assert found["high"] < 0
    assert "lies within ±0.05, though it excludes 0 (" in found["sentence"]


@pytest.mark.parametrize("seeds", [1, 2])
def test_too_few_seeds_are_never_a_verdict(tmp_path, seeds):
    write_run(tmp_path, losses_of([1.5, 1.52][:seeds]), GOOD)
    found = verdict.judge(tmp_path, SETTINGS, ARMS, FIVE[:seeds], NOTHING)
    assert (found["word"], found["suggestion"]) == ("not enough evidence", "helped")
    assert (found["p_value"], found["includes_seeds"]) == (None, False)
    assert all(item["word"] == "not enough evidence" for item in found["comparisons"])
    assert all(item["p_value_holm"] is None for item in found["comparisons"])
    noun = "seed" if seeds == 1 else "seeds"
    assert found["sentence"].startswith(
        f"Not enough evidence: with {seeds} {noun} per arm, the noise between seeds is unknown."
    )
    assert "On 30 test documents alone, 'detour' looks better than 'direct'" in found["sentence"]
    assert "Run at least 3 seeds, better 5." in found["sentence"]


def test_three_seeds_carry_a_caution(tmp_path):
    write_run(tmp_path, losses_of([1.80, 1.82, 1.78]), GOOD)
    found = verdict.judge(tmp_path, SETTINGS, ARMS, [1, 2, 3], NOTHING)
    assert found["word"] == "helped"
    assert "Caution: 3 seeds per arm; a claim wants 5." in found["sentence"]
    assert "'detour' beats it (" in found["sentence"] and "'direct' beats it (" in found["sentence"]
    assert found["lead"]["beaten_by"] == ["detour", "direct"]
    assert [item["control"] for item in found["lead"]["comparisons"]] == ["lead", "lead"]


def test_unequal_budgets_are_said(tmp_path):
    write_run(tmp_path, losses_of([2.0]), GOOD)
    spent = {"direct": 1e12, "detour": 1.2e12, "plain": 0.0}
    cost = {arm: {"seconds": 60.0, "flops": flops, "tokens": 0.0} for arm, flops in spent.items()}
    found = verdict.judge(tmp_path, SETTINGS, ARMS, [1], cost)
    assert "; in FLOPs these differ by more than a tenth." in found["sentence"]


def edit_row(run_dir, arm, seed, number, **changes) -> None:
    path = run_dir / arm / f"seed-{seed}" / "evaluate" / "predictions.jsonl"
    rows = [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]
    rows[number] |= changes
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def test_metrics_name_what_is_compared_beside_the_loss(tmp_path):
    write_run(tmp_path, losses_of([2.0, 2.01, 1.99]), GOOD)
    chosen = SETTINGS.model_copy(update={"metrics": ["rouge1", "chrf++"]})
    found = verdict.judge(tmp_path, chosen, ARMS, [1, 2, 3], NOTHING)
    of_text = [item["metric"] for item in found["comparisons"] if "loss" not in item["metric"]]
    assert of_text == ["chrF++", "ROUGE-1"]
    alone = SETTINGS.model_copy(update={"metrics": []})
    assert verdict.judge(tmp_path, alone, ARMS[1:], [1, 2, 3], NOTHING)["comparisons"] == []


def test_a_lead_that_is_all_of_the_source_is_called_so(tmp_path):
    write_run(tmp_path, losses_of([2.0]), GOOD)
    for arm in ARMS:
        for number in range(DOCUMENTS):
            edit_row(tmp_path, arm, 1, number, lead=f"довгий текст\u2028{number}")
    found = verdict.judge(tmp_path, SETTINGS, ARMS, [1], NOTHING)
    assert "The copied source (the text as it is, untranslated) has chrF++" in found["sentence"]
    assert found["lead"]["is_source"] is True
    edit_row(tmp_path, "detour", 1, 0, source_lang="de_DE")  # the others are older, and do not say
    verdict.judge(tmp_path, SETTINGS, ARMS, [1], NOTHING)
    edit_row(tmp_path, "plain", 1, 0, source_lang="fr_XX")
    with pytest.raises(DataError, match="its source_lang is 'de_DE', but 'fr_XX'"):
        verdict.judge(tmp_path, SETTINGS, ARMS, [1], NOTHING)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reference": "інше"}, r"detour.seed-2.*document 4 \(id d3\): its reference is 'інше', but 'бібліотека"),
        ({"id": "other"}, r"document 4 \(id other\): its id is 'other', but 'd3' in .*plain.seed-1"),
        ({"reference_tokens": 99}, "its reference_tokens is '99'"),
        ({"loss_nats": float("nan")}, "line 4: not a prediction .loss or token count is not a number"),
        ({"loss_nats": "much"}, "line 4: not a prediction"),
        ({"reference_tokens": 0}, "line 4: not a prediction"),
        ({"reference_tokens": float("nan")}, "line 4: not a prediction"),
    ],
)
def test_documents_must_be_the_same_and_whole(tmp_path, changes, message):
    write_run(tmp_path, losses_of([2.0, 2.0]), GOOD)
    edit_row(tmp_path, "detour", 2, 3, **changes)
    with pytest.raises(DataError, match=message):
        verdict.judge(tmp_path, SETTINGS, ARMS, [1, 2], NOTHING)


def test_missing_short_broken_and_empty_predictions(tmp_path):
    write_run(tmp_path, losses_of([2.0]), GOOD)
    path = tmp_path / "detour" / "seed-1" / "evaluate" / "predictions.jsonl"
    lines = path.read_text("utf-8").split("\n")
    for content, message in (
        ("\n".join(lines[:-2]), "29 documents, but .* has 30"),
        ('{"id": ', "line 1: not a prediction"),
        ('{"id": "d0"}', "lacks lang, source, reference"),
        ("[]\n", "line 1: not a prediction"),
        ("", "holds no predictions"),
    ):
        path.write_text(content, "utf-8")
        with pytest.raises(DataError, match=message):
            verdict.judge(tmp_path, SETTINGS, ARMS, [1], NOTHING)
    path.unlink()
    with pytest.raises(DataError, match=r"predictions\.jsonl: missing.*Run the recipe again"):
        verdict.judge(tmp_path, SETTINGS, ARMS, [1], NOTHING)


def test_needs_no_torch():
    code = "import sys, polygraft.scoring.verdict; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}, check=False).returncode
        == 0
    )
