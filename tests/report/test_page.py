"""The whole page: what it leads with, that it stands alone, that nothing from files can break it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from statistics import fmean

import pytest

from polygraft.report import write

EVIL = "<script>alert(1)</script><b \"x\" 'y'>&amp; $x$ {{ 7*7 }}\u2028\x1b"


def test_it_leads_with_the_verdict_and_shows_every_arm(run, page, assert_well_formed):
    text = assert_well_formed(page).text
    verdict = json.loads((run / "verdict.json").read_text(encoding="utf-8"))
    assert text.index(verdict["sentence"]) < text.index("Scores Means over seeds")
    assert '<span class="badge open">? not enough evidence</span>' in page
    scores = page[page.index('id="scores"') : page.index('id="losses"')]
    for arm in ("plain", "detour"):
        found = [json.loads((run / arm / f"seed-{seed}" / "evaluate" / "scores.json").read_text()) for seed in (1, 2)]
        loss = [one["systems"]["model"]["uk_UA"]["loss_per_token"] for one in found]
        mean, low, high = (fmean(one[key] for one in loss) for key in ("score", "low", "high"))
        assert f">{arm}</span>" in scores and f"{mean:.3f}<span" in scores and f"{low:.3f} to {high:.3f}" in scores
        assert f"seeds {min(o['score'] for o in loss):.3f} to {max(o['score'] for o in loss):.3f}" in scores
    lead = found[0]["systems"]["lead"]["uk_UA"]["chrf++"]["score"]
    assert ">lead baseline</span>" in scores and f"{lead:.1f}<span" in scores


def test_it_is_self_contained(page, assert_well_formed):
    parsed = assert_well_formed(page)
    for tag, attributes in parsed.elements:
        assert tag not in ("script", "link", "img", "iframe", "object", "embed", "base")
        assert not any(name.startswith("on") for name in attributes), attributes
        for name in ("src", "href", "xlink:href", "srcset", "data", "action"):
            assert (attributes.get(name) or "#").startswith("#")
    styles = "".join(re.findall(r"<style>.*?</style>", page, re.DOTALL)) + "".join(re.findall(r'style="[^"]*"', page))
    assert "@import" not in styles and "//" not in styles and not re.search(r"url\((?!#)", page)
    assert "default-src 'none'" in page


def test_it_is_small_and_repeatable(run, page):
    assert len(page.encode()) < 600_000
    assert write(run).read_text(encoding="utf-8") == page
    assert [path.name for path in run.iterdir() if "report" in path.name] == ["report.html"]


def test_it_stays_small_with_many_documents(copy):
    for path in copy.glob("*/*/evaluate/predictions.jsonl"):
        row = json.loads(path.read_text(encoding="utf-8").split("\n")[0])
        rows = [{**row, "id": f"d{i}", "source": row["source"] * 200} for i in range(2000)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert write(copy).stat().st_size < 1_500_000


def test_everything_from_files_is_escaped(copy, change, assert_well_formed):
    for path in copy.glob("*/*/evaluate/predictions.jsonl"):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        for row in rows:
            row |= {key: row[key] + EVIL for key in ("id", "source", "reference", "prediction", "lead")}
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    folder = copy / "detour" / "seed-1"
    plan = json.loads((folder / "transfer" / "plan.json").read_text(encoding="utf-8"))
    entries = [{**entry, "tensor": EVIL, "reason": EVIL, "transform": EVIL} for entry in plan["entries"]]
    change(folder / "transfer" / "plan.json", entries=entries, warnings=[EVIL])
    change(folder / "transfer" / "diagnostics.json", **{EVIL: 1})
    for stage in ("adapt", "finetune"):
        change(folder / stage / "stage.json", machine={EVIL: EVIL}, versions={EVIL: EVIL}, inputs={EVIL: EVIL})
    change(copy / "verdict.json", sentence=EVIL, treatment=EVIL, metric=EVIL)
    diagnosis = json.loads((copy / "diagnose.json").read_text(encoding="utf-8"))
    judged = {**diagnosis["arms"][0], "arm": EVIL, "sentence": EVIL}
    change(copy / "diagnose.json", arms=[judged], notes=[EVIL], placebos={EVIL: EVIL}, layers=None)
    with (copy / "recipe.yaml").open("a", encoding="utf-8") as file:
        file.write(f"# {EVIL[:-2]}\n")
    html = write(copy).read_text(encoding="utf-8")
    assert "<script" not in html and "<b " not in html and " 49 " not in html
    text = assert_well_formed(html).text
    assert text.count("<script>alert(1)</script>") > 40 and "&amp; $x$ {{ 7*7 }}" in text


def test_a_page_that_cannot_be_written_leaves_nothing_behind(copy):
    (copy / "report.html").unlink(missing_ok=True)
    (copy / "report.html").mkdir()  # os.replace cannot put a file here, whoever runs the test
    with pytest.raises(OSError, match=r"report\.html"):
        write(copy)
    assert list(copy.glob(".report*")) == []


def test_it_needs_no_torch(copy):
    code = f"import sys; from pathlib import Path; from polygraft.report import write; write(Path({str(copy)!r}))"
    code += "; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}, check=False)
    assert done.returncode == 0
