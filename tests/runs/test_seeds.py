"""Seeds of the data and of initialisation apart, and what a stage's fingerprint makes of settings."""

import hashlib
import json
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from polygraft import pipeline
from polygraft.objectives import MLM, Denoising
from polygraft.recipe.reading import dump_recipe, parse_recipe
from polygraft.runs.records import FINGERPRINT_VERSION, Task
from polygraft.settings import Bottleneck, Finetune, Running, TextData
from polygraft.stages import adapt
from polygraft.training.trainer import StageTrainer
from polygraft.transfers.methods import EmbeddingsTransfer, seeds_of

HOW = MLM(budget={"steps": 3}, per_device_train_batch_size=4, precision="fp32", adapter=Bottleneck(bottleneck_size=4))


@pytest.fixture
def seen(monkeypatch):
    """The batches that were trained on, and the adapter before the first step."""
    found = {"batches": [], "start": None}
    step = StageTrainer.training_step

    def seeing(self, model, inputs, *args, **kwargs):
        found["batches"].append((inputs["items"].tolist(), inputs["input_ids"].tolist(), inputs["labels"].tolist()))
        if found["start"] is None:
            found["start"] = [p.detach().sum().item() for p in model.parameters() if p.requires_grad and p.ndim > 1]
        return step(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(StageTrainer, "training_step", seeing)
    return found


def test_each_seed_has_its_own(tiny_xlmr_dir, sentences, tmp_path, seen):
    (tmp_path / "text.txt").write_text("\n".join(f"{i} {s}" for i, s in enumerate(sentences * 3)))
    text = TextData(train_file=str(tmp_path / "text.txt"), validation_split=0.3)
    found = {}
    for seed, data_seed in ((1, None), (1, 1), (2, 1), (1, 2), (2, None)):
        seen.update(batches=[], start=None)
        out = tmp_path / f"{seed}-{data_seed}"
        result = adapt.run(HOW, str(tiny_xlmr_dir), text, seed, out, Running(data_seed=data_seed))
        found[seed, data_seed] = (seen["batches"], seen["start"], result["eval_loss"])
    assert found[1, None] == found[1, 1]
    data, start, _ = found[1, 1]
    assert found[2, 1][0] == data and found[2, 1][1] != start  # the same text, order and masks; another adapter
    assert found[1, 2][0] != data and found[1, 2][1] == start
    assert found[2, None][:2] == (found[1, 2][0], found[2, 1][1])


def fingerprint(settings, seed=1, data_seed=None, **changes):
    return Task.of("adapt", settings.model_copy(update=changes), [], seed, data_seed).fingerprint


def test_results_of_before_stay_what_they_were():
    """What version 4 took of a stage, written down here: settings that came later count where they change something."""
    for settings in (Finetune(budget={"steps": 3}), Denoising(budget={"steps": 3})):
        later = {
            "load_best_model_at_end", "early_stopping_patience", "early_stopping_threshold", "sampling_temperature",
            "metric_for_best_model", "generation_max_samples", "generation_num_beams", "generation_max_length",
            "gradient_checkpointing",
        }  # fmt: skip
        before = settings.model_dump(exclude=later) | {"precision": "auto"}
        content = {"format": 4, "stage": "adapt", "settings": before, "seed": 1, "data": [], "inputs": []}
        task = Task.of("adapt", settings, [], 1)
        content["settings"]["precision"] = task.settings["precision"]
        assert FINGERPRINT_VERSION == 4
        assert task.fingerprint == hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    tune = Finetune(budget={"steps": 3})
    changes = [
        {"metric_for_best_model": "bleu"}, {"early_stopping_patience": 2}, {"sampling_temperature": 2.0},
        {"load_best_model_at_end": False}, {"generation_num_beams": 2},
    ]  # fmt: skip
    found = {fingerprint(tune), *(fingerprint(tune, **change) for change in changes)}
    assert len(found) == 1 + len(changes)
    assert fingerprint(tune, data_seed=1) == fingerprint(tune)  # which is what it is without
    assert fingerprint(tune, data_seed=2) != fingerprint(tune)


def test_a_transfer_depends_on_the_seed_that_it_draws_by(tmp_path):
    split, whole = TextData(train_file="t.txt"), TextData(train_file="t.txt", validation_file="v.txt")
    drawn, plain, running = EmbeddingsTransfer(control="random"), EmbeddingsTransfer(), Running(data_seed=9)
    assert seeds_of(plain, split, 1, Running()) == (1, Running())
    assert seeds_of(plain, split, 1, running) == (9, Running())
    assert seeds_of(plain, whole, 1, running) == (None, Running())
    assert seeds_of(drawn, whole, 1, running) == (1, running)


def test_in_a_recipe(tiny_study):
    """Seeds of one study vary the initialisation only; trackers are not part of what is done."""
    tiny_study["finetune"]["adapter"] = {"type": "lora", "r": 2}
    del tiny_study["pairs"]["validation_file"]
    recipe = parse_recipe({**tiny_study, "seeds": [1, 2], "data_seed": 7}, "r")
    pipeline.run(recipe, recipe_text=dump_recipe(recipe))
    folder = Path(tiny_study["output_dir"]) / "tiny" / "main"
    records = [json.loads((folder / f"seed-{seed}" / "finetune" / "stage.json").read_text()) for seed in (1, 2)]
    assert [record["settings"]["seed"] for record in records] == [1, 2]
    assert {record["settings"]["data_seed"] for record in records} == {7}
    assert records[0]["result"]["tokens"] == records[1]["result"]["tokens"]
    weights = [load_file(folder / f"seed-{seed}" / "finetune" / "model.safetensors") for seed in (1, 2)]
    assert any((weights[0][name] != weights[1][name]).any() for name in weights[0])
    shown = recipe.model_copy(update={"report_to": ("tensorboard",)})
    before = (folder / "seed-1" / "finetune" / "stage.json").stat().st_mtime_ns
    pipeline.run(shown, recipe_text=dump_recipe(shown))
    assert (folder / "seed-1" / "finetune" / "stage.json").stat().st_mtime_ns == before, "is not run again"
