"""A stage's folder: what is resumed, refused, set aside and shared; what a fingerprint sees; what a stage took."""

import json
import os
import time

import pytest

from polygraft import nano
from polygraft.errors import PolygraftError
from polygraft.objectives import MLM
from polygraft.runs import records
from polygraft.runs.records import fingerprint_of, read_record, run_stage
from polygraft.settings import Evaluate, TextData


def settings(steps=100, unit="steps", **changes):
    return MLM(budget={unit: steps}, **changes)


def checkpoint(out, steps, **spent):
    """As `training` leaves one behind."""
    folder = out / "checkpoints" / f"checkpoint-{steps}"
    folder.mkdir(parents=True)
    state = {"attributes": {"spent": {"steps": steps, **spent}, "first": {}}}
    (folder / "trainer_state.json").write_text(json.dumps({"stateful_callbacks": {"Spending": state}}))


@pytest.fixture
def interrupted(tmp_path):
    """A stage that was interrupted after so many steps."""

    def _interrupted(how, steps=40, **spent):
        out = tmp_path / "run" / "arm" / "seed-1" / "adapt"

        def work():
            checkpoint(out, steps, **spent)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_stage("adapt", out, how, [], 1, work)
        return out

    return _interrupted


def never():
    raise AssertionError("nothing is to be done")


@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize(
    ("how", "spent", "other", "said"),
    [
        (settings(), {}, settings(adam_beta2=0.9), "40 of 100 steps, with other settings or inputs (adam_beta2)"),
        (settings(), {}, settings(steps=60), "40 of 100 steps, with other settings or inputs (budget)"),
        (settings(), {}, settings(1e6, "tokens"), "40 of 100 steps, with other settings or inputs (budget)"),
        (
            settings(5000, "tokens"), {"tokens": 1234}, settings(9000, "tokens", max_length_tokens=64),
            "1,234 of 5,000 tokens, with other settings or inputs (budget, max_length_tokens)",
        ),
        (
            settings(2, "epochs"), {}, settings(1, "epochs"),
            "40 steps of a budget of 2 epochs, with other settings or inputs (budget)",
        ),
    ],
)  # fmt: skip
def test_interrupted_work_is_never_deleted(interrupted, replace, how, spent, other, said):
    out = interrupted(how, **spent)
    with pytest.raises(PolygraftError) as caught:
        run_stage("adapt", out, other, [], 1, never, replace=replace)
    assert f"{out} holds an unfinished 'adapt', {said}. Name another output folder, or" in str(caught.value)
    assert (out / "checkpoints" / "checkpoint-40").is_dir()
    assert read_record(out)["settings"]["adam_beta2"] == how.adam_beta2


@pytest.mark.parametrize("replace", [True, False])
def test_a_larger_budget_goes_on(interrupted, replace, capsys):
    out = interrupted(settings(100))
    record = run_stage("adapt", out, settings(200), [], 1, lambda: {"checkpoints": len(list(out.glob("*/*")))},
                       replace=replace)  # fmt: skip
    assert record["result"] == {"checkpoints": 1}
    assert record["settings"]["budget"]["steps"] == 200
    assert [budget["steps"] for budget in record["grown_from"]] == [100]
    assert "going on under a larger budget" in capsys.readouterr().err
    assert run_stage("adapt", out, settings(200), [], 1, never, replace=replace) == record


def test_another_input_is_another_task(interrupted, tmp_path):
    out = interrupted(settings())
    (tmp_path / "text.txt").write_text("text")
    with pytest.raises(PolygraftError, match="40 of 100 steps"):
        run_stage("adapt", out, settings(), [TextData(train_file=str(tmp_path / "text.txt"))], 1, never)


def test_a_finished_result_goes_when_the_next_one_is_there(tmp_path):
    out = tmp_path / "run" / "arm" / "seed-1" / "evaluate"

    def work(content):
        def write():
            (out / "scores.json").write_text(content)
            return {"content": content}

        return write

    def fail():
        raise OSError(28, "No space left on device")

    first = run_stage("evaluate", out, Evaluate(), [], None, work("first"))
    with pytest.raises(OSError, match="No space"):
        run_stage("evaluate", out, Evaluate(num_beams=2), [], None, fail)
    assert run_stage("evaluate", out, Evaluate(), [], None, never) == first, "back to it without doing it again"
    assert (out / "scores.json").read_text() == "first"
    run_stage("evaluate", out, Evaluate(num_beams=2), [], None, work("second"))
    assert [path.name for path in out.parent.iterdir()] == ["evaluate"]
    assert (out / "scores.json").read_text() == "second"


def test_seconds_are_those_of_all_parts(tmp_path):
    out = tmp_path / "stage"

    def half():
        time.sleep(0.3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stage("evaluate", out, Evaluate(), [], None, half)
    assert 0.3 <= read_record(out)["seconds"] < 5
    # a part that was killed wrote nothing at its end: it lasted until it last wrote anything
    record = read_record(out)
    record |= {"seconds": 100.0, "part_started": time.time() - 1000}
    records.write_record(out, record)
    (out / "late").write_text("x")
    os.utime(out / "late", (time.time(), record["part_started"] + 50))
    for path in (out, out / "stage.json"):
        os.utime(path, (time.time(), record["part_started"] + 20))
    done = run_stage("evaluate", out, Evaluate(), [], None, lambda: {})
    assert 150 <= done["seconds"] < 155


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "model"
    for name in ("config.json", "generation_config.json", "model.safetensors", "tokenizer_config.json",
                 "tokenizer.json", "sentencepiece.bpe.model", "vocab.txt", "chat_template.jinja", "pytorch_model.bin",
                 "adapter/adapter_config.json", "adapter/adapter_model.safetensors"):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    return folder


def test_a_fingerprint_sees_all_that_a_checkpoint_is_loaded_from(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) == 11
    seen = {fingerprint_of(str(folder))}
    for number, path in enumerate(files, 1):
        path.write_text(f"{{}} {path.name}")
        seen.add(fingerprint_of(str(folder)))
        assert len(seen) == 1 + number, path.name


def test_a_fingerprint_is_of_contents(folder, tmp_path):
    before = fingerprint_of(str(folder))
    for name in ("README.md", "stage.json", "metrics.jsonl", "training_args.bin", ".lock"):
        (folder / name).write_text("{}")
    (folder / "checkpoints").mkdir()
    os.utime(folder / "config.json", (1, 1))
    assert fingerprint_of(str(folder)) == before
    folder.rename(tmp_path / "elsewhere")
    assert fingerprint_of(str(tmp_path / "elsewhere")) == before


def test_a_file_is_hashed_once_per_run(folder, monkeypatch):
    fingerprint_of(str(folder))
    monkeypatch.setattr(records.hashlib, "file_digest", lambda *_: 1 / 0)
    fingerprint_of(str(folder))
    (folder / "config.json").write_text("another")
    with pytest.raises(ZeroDivisionError):
        fingerprint_of(str(folder))


def test_a_hub_name_is_fingerprinted_by_its_commit(monkeypatch):
    commits = {"a/b": "1" * 40, "a/b@v2": "2" * 40}
    monkeypatch.setattr("polygraft.models.checkpoints.commit_of", commits.get)
    first, pinned = fingerprint_of("a/b"), fingerprint_of("a/b@v2")
    commits["a/b"] = "3" * 40
    assert len({first, pinned, fingerprint_of("a/b")}) == 3, "the hub's main branch has moved on"


def test_bundled_models_have_fingerprints_of_their_own():
    names = ("polygraft/nano-xlmr", "polygraft/nano-mbart")
    assert all(nano.bundled(name) for name in names)
    assert len({fingerprint_of(name) for name in names}) == 2


def test_gradient_checkpointing_is_no_other_result(tmp_path):
    """What is done stays done, and what ran out of memory goes on with it; the record says how it went."""
    one, other = (records.Task.of("adapt", settings(gradient_checkpointing=on), [], 1) for on in (False, True))
    assert one.fingerprint == other.fingerprint
    assert one.record()["settings"]["gradient_checkpointing"] is False
    assert other.record()["settings"]["gradient_checkpointing"] is True


@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_a_precision_that_the_environment_names_is_a_setting(monkeypatch, precision):
    def fingerprint(named):
        monkeypatch.setenv("POLYGRAFT_PRECISION", named)
        return records.Task.of("adapt", settings(precision=precision), [], 1).fingerprint

    assert len({fingerprint(named) for named in ("", "auto", "fp32", "bf16")}) == (3 if precision == "auto" else 1)
