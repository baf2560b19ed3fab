"""`polygraft verdict`: the verdict of a run's folder alone, elsewhere, to the last digit."""

import json
import shutil
import subprocess
import sys

import pytest

WITHOUT_MODELS = """
import sys
from polygraft.cli import app
try:
    app(["verdict", sys.argv[1], "--json"])
finally:
    assert not {"torch", "transformers"} & set(sys.modules), "a verdict needs neither"
"""


@pytest.fixture
def elsewhere(copy, tmp_path):
    """The run's folder under another name, without models; its data and checkpoints are not where the recipe says."""
    folder = tmp_path / "elsewhere" / "demo"
    shutil.copytree(copy, folder)
    recipe = (folder / "recipe.yaml").read_text()
    (folder / "recipe.yaml").write_text(recipe.replace("outputs", "nowhere").replace("/xlmr", "/gone"))
    return folder


def test_a_verdict_is_computed_again_elsewhere_to_the_last_digit(run, elsewhere):
    ran = subprocess.run([sys.executable, "-c", WITHOUT_MODELS, str(elsewhere)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "equal to the last digit" in ran.stderr
    assert json.loads(ran.stdout) == json.loads((run / "verdict.json").read_text())


def test_another_prediction_is_another_verdict(elsewhere, invoke):
    path = elsewhere / "detour/seed-1/evaluate/predictions.jsonl"
    first, *rest = path.read_text().splitlines(keepends=True)
    path.write_text(json.dumps(json.loads(first) | {"loss_nats": 1.0}) + "\n" + "".join(rest))
    ran = invoke("verdict", str(elsewhere))
    assert ran.exit_code == 1
    assert "verdict.json: other in sentence" in ran.stderr


BROKEN = {
    "no run": (lambda folder: shutil.rmtree(folder), "has no recipe.yaml"),
    "not finished": (lambda folder: (folder / "verdict.json").unlink(), "there is none to compare with"),
    "broken": (lambda folder: (folder / "verdict.json").write_text("{"), "broken JSON"),
    "no outputs": (lambda folder: (folder / "plain/seed-2/evaluate/predictions.jsonl").unlink(), "plain/seed-2"),
}


@pytest.mark.parametrize(("harm", "message"), BROKEN.values(), ids=BROKEN)
def test_what_is_missing_is_named(elsewhere, invoke, harm, message):
    harm(elsewhere)
    ran = invoke("verdict", str(elsewhere))
    assert ran.exit_code == 3
    assert message in ran.stderr
