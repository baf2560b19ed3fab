"""Trackers: TensorBoard's files read back, through an interruption; what is missing, and what fails."""

import importlib.util
import json
import sys
from types import SimpleNamespace

import pytest
from safetensors.numpy import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import integrations

from polygraft import pipeline
from polygraft.errors import RecipeError
from polygraft.objectives import MLM
from polygraft.recipe.reading import dump_recipe, parse_recipe
from polygraft.settings import Running, TextData
from polygraft.stages import adapt
from polygraft.training import reporting, trackers
from polygraft.training.trainer import StageTrainer

HOW = MLM(
    budget={"steps": 8}, per_device_train_batch_size=4, precision="fp32", learning_rate=1e-3, eval_steps=2, save_steps=3
)
SHOWN = Running(report_to="tensorboard")


@pytest.fixture
def text(tmp_path, sentences):
    (tmp_path / "text.txt").write_text("\n".join(sentences * 3))
    return TextData(train_file=str(tmp_path / "text.txt"))


@pytest.fixture
def missing(monkeypatch):
    """Makes packages look as if they were not installed."""
    real = importlib.util.find_spec

    def _missing(*names):
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, *rest: None if name in names else real(name, *rest)
        )

    return _missing


def curves(folder):
    """What TensorBoard shows: {name: [(step, value)]}."""
    events = EventAccumulator(str(folder / reporting.FOLDER)).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def lines_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_tensorboard_shows_what_is_logged_also_after_an_interruption(tiny_xlmr_dir, text, tmp_path, monkeypatch):
    step = StageTrainer.training_step

    def interrupted(self, *args, **kwargs):
        if self.spending.spent["steps"] == 5:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    monkeypatch.setattr(StageTrainer, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        adapt.run(HOW, str(tiny_xlmr_dir), text, 1, tmp_path / "shown", SHOWN)
    assert max(curves(tmp_path / "shown")["train/loss"])[0] == 5, "beyond the checkpoint of the third step"
    monkeypatch.setattr(StageTrainer, "training_step", step)
    adapt.run(HOW, str(tiny_xlmr_dir), text, 1, tmp_path / "shown", SHOWN)
    adapt.run(HOW, str(tiny_xlmr_dir), text, 1, tmp_path / "plain")
    found, lines = curves(tmp_path / "shown"), lines_of(tmp_path / "plain")
    for tag, key in {"train/loss": "loss", "eval/loss": "eval_loss", "train/learning_rate": "learning_rate"}.items():
        logged = [(line["step"], line[key]) for line in lines if key in line]
        assert [step for step, _ in found[tag]] == [step for step, _ in logged], tag
        assert [value for _, value in found[tag]] == pytest.approx([value for _, value in logged], rel=1e-6), tag
    assert found["train/tokens"][-1][1] == lines[-1]["tokens"]
    assert not (tmp_path / "plain" / reporting.FOLDER).exists()
    shown, plain = weights(tmp_path / "shown"), weights(tmp_path / "plain")
    assert all((shown[name] == plain[name]).all() for name in plain), "a tracker changes nothing of what is trained"


def test_a_tracker_that_fails_is_said_and_left_out(tiny_xlmr_dir, text, tmp_path, monkeypatch, capsys):
    heard = []

    def fails(self, args, state, control, logs=None, **kwargs):
        heard.append(state.global_step)
        if state.global_step:
            raise OSError("no space left")

    monkeypatch.setattr(integrations.TensorBoardCallback, "on_log", fails)
    result = adapt.run(HOW, str(tiny_xlmr_dir), text, 1, tmp_path / "out", SHOWN)
    assert heard == [0, 1]
    said = capsys.readouterr().err
    assert said.count("report_to: tensorboard failed (OSError: no space left). It hears no more of ") == 1
    assert result["steps"] == 8


def test_what_is_not_installed_is_said_before_anything_is_loaded(tiny_study, missing, monkeypatch):
    missing("wandb", "mlflow")
    monkeypatch.setattr(pipeline, "run_arm", lambda *_: pytest.fail("began"))
    recipe = parse_recipe({**tiny_study, "report_to": ["tensorboard", "wandb", "mlflow"]}, "r")
    with pytest.raises(
        RecipeError, match=r"report_to: wandb and mlflow cannot be imported. Run `pip install wandb mlflow`"
    ):
        pipeline.run(recipe, recipe_text=dump_recipe(recipe))
    assert trackers.chosen(["all"]) == ["tensorboard"]
    missing(*trackers.ALL)
    with pytest.raises(RecipeError, match="report_to = all: none of tensorboard, wandb, trackio, mlflow is installed"):
        trackers.assert_installed(["all"])


def test_a_recipe_names_trackers_as_transformers_does(tiny_study):
    written = {"wandb": ("wandb",), "none": (), "all": ("all",)}
    for text, meant in written.items():
        recipe = parse_recipe({**tiny_study, "report_to": text}, "r")
        assert recipe.report_to == recipe.running.report_to == meant
    with pytest.raises(RecipeError, match="report_to"):
        parse_recipe({**tiny_study, "report_to": "tensorbord"}, "r")


class FakeRun(SimpleNamespace):
    def finish(self):
        self.ended.append(self.id)


def test_a_run_that_goes_on_keeps_its_identity(tmp_path, monkeypatch):
    """Of Weights & Biases: another stage gets a run of its own, the same one its own again."""
    begun, ended = [], []

    def init(**given):
        begun.append(given)
        return FakeRun(id=given["id"], ended=ended)

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    monkeypatch.setattr(integrations, "WandbCallback", lambda: SimpleNamespace(on_log=lambda *_, **__: None))
    state = SimpleNamespace(global_step=0)
    for name in ("adapt", "finetune", "adapt"):
        tracker = reporting.Wandb(tmp_path / "study" / "detour" / "seed-1" / name)
        tracker.on_log(None, state, None)
        tracker.close()
        assert not tracker.failed
    assert [run["name"] for run in begun] == [f"study/detour/seed-1/{name}" for name in ("adapt", "finetune", "adapt")]
    assert begun[0]["id"] == begun[2]["id"] != begun[1]["id"]
    assert {run["resume"] for run in begun} == {"allow"}
    assert ended == [run["id"] for run in begun]
