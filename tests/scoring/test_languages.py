"""The comparison in each language: what a test of that language alone would say, with intervals for their number."""

from __future__ import annotations

import json

import numpy as np
import pytest

from polygraft.scoring import verdict
from polygraft.settings import Verdict

ARMS, SEEDS = ["direct", "detour"], [1, 2, 3]
SETTINGS = Verdict(treatment="detour", control="direct", metrics=["chrf++", "bleu"])
COST = {arm: {"seconds": 0.0, "flops": 0.0, "tokens": 0.0} for arm in ARMS}
DIRECTIONS = [("de_DE", "fr_XX", 12, -0.3), ("de_DE", "uk_UA", 9, 0.2), ("uk_UA", "uk_UA", 15, 0.0)]
"""Languages read and written, documents, and by how much the detour's loss differs."""


def write_run(folder, directions):
    """Predictions that are the same for a direction, whichever others are written beside it."""
    for arm in ARMS:
        for seed in SEEDS:
            rows = []
            for source, target, documents, effect in directions:
                rng = np.random.default_rng([len(source + target), documents, ARMS.index(arm), seed])
                for n in range(documents):
                    loss = 2 + 0.1 * n + effect * (arm == "detour") + rng.normal(0, 0.05)
                    text = [f"слово{k}" for k in rng.integers(0, 4, 6)]
                    rows.append({
                        "id": f"{source}-{target}-{n}", "lang": target, "source_lang": source, "source": "текст",
                        "reference": "слово0 слово1 слово2 слово3", "prediction": " ".join(text), "lead": "текст",
                        "loss_nats": 7 * loss, "reference_tokens": 7,
                    })  # fmt: skip
            path = folder / arm / f"seed-{seed}" / "evaluate" / "predictions.jsonl"
            path.parent.mkdir(parents=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return verdict.judge(folder, SETTINGS, ARMS, SEEDS, COST)


def test_each_language_is_compared_as_alone_and_adjusted_for_their_number(tmp_path):
    found = write_run(tmp_path / "all", DIRECTIONS)["languages"]
    names = ["de_DE-fr_XX", "de_DE-uk_UA", "uk_UA"]
    metrics = ["loss per reference token (nats)", "chrF++", "BLEU"]
    assert [(one["metric"], one["language"]) for one in found] == [(m, name) for m in metrics for name in names]
    for place, direction in enumerate(DIRECTIONS):
        alone = write_run(tmp_path / str(place), [direction])
        assert alone["languages"] == []
        for metric in metrics:
            (one,) = (one for one in found if (one["metric"], one["language"]) == (metric, names[place]))
            (same,) = (item for item in [alone, *alone["comparisons"]] if item["metric"] == metric)
            for figure in ("effect", "standard_error", "degrees_of_freedom", "documents", "better"):
                assert one[figure] == pytest.approx(same[figure], rel=1e-9), (metric, figure)  # measured: equal
            assert one["margin"] == same["margin"]
            assert 0.95 <= one["confidence"] <= 1 - 0.05 / 3 + 1e-12
            assert one["p_value_holm"] == pytest.approx(min(1.0, one["p_value"] * 0.05 / (1 - one["confidence"])))
    assert [one["word"] for one in found[:3]] == ["helped", "hurt", "equivalent"]
