"""A stage's folder: whether it holds the result already, what may be replaced in it, and what is written of it.

A stage's fingerprint covers its settings and the contents of all its inputs. A folder whose `stage.json` says "done"
under the same fingerprint is never run again; "running" under the same fingerprint is resumed. Arms that share a stage
share its result.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from polygraft import machine, processes
from polygraft.data.files import RESULT_FORMAT, appearing, assert_known_format, only_one, remove, write_atomically
from polygraft.data.sources import data_files, data_settings
from polygraft.errors import PolygraftError
from polygraft.recipe import Recipe
from polygraft.recipe.stages import stages_of
from polygraft.runs.fingerprints import fingerprint_of
from polygraft.settings import Forgetting, InputData, PairData, Running, Settings, TextData, Trim

STAGE_FILE = "stage.json"
RECIPE_FILE = "recipe.yaml"  # of a whole run
# Settings that change no bit of a result: what is done stays, what runs goes on.
SAME_RESULT = {"gradient_checkpointing"}
RUNNING, DONE = "running", "done"
FINGERPRINT_VERSION = 4  # raised when a stage's results change with the same settings
SCORES_VERSION = 5  # the same of `evaluate`, so that models are not trained again for another score
# Settings that came after FINGERPRINT_VERSION: at their defaults results are what they were, and they are not told.
NEWER = {
    *("load_best_model_at_end", "early_stopping_patience", "early_stopping_threshold", "sampling_temperature"),
    *("metric_for_best_model", "generation_max_samples", "generation_num_beams", "generation_max_length"),
}


def run_stage(
    stage: str,
    out_dir: Path,
    settings: Settings,
    inputs: Sequence[str | Settings | None],
    seed: int | None,
    function: Callable[[], dict[str, Any]],
    *,
    replace: bool = True,
    running: Running = Running(),
) -> dict[str, Any]:
    """Run `function` unless `out_dir` holds its result already; return the record in stage.json.

    `inputs` are checkpoints (names or folders) and data sections. Interrupted work of other settings is never deleted;
    where only its budget grew, it goes on. A finished result of other settings is kept aside until the new one is
    there; with `replace=False` it is left alone, as a folder that is not a stage's always is.

    Several processes train together; all else the main one does alone.

    Raises:
        PolygraftError: what `out_dir` holds is not to be replaced, or another run is working in it.
    """
    with only_one(out_dir) if processes.is_main() else contextlib.nullcontext():
        task = processes.by_main(lambda: Task.of(stage, settings, inputs, seed, running.data_seed))
        record = processes.by_main(lambda: _open(out_dir, task, replace))
        if record["status"] == DONE:
            _clear_up(out_dir)
            return record
        if processes.is_main():
            print(f"== {'/'.join(out_dir.parts[-3:]) if replace else stage}", file=sys.stderr, flush=True)
        started = time.monotonic()

        def end(**news: Any) -> None:
            seconds = round(record["seconds"] + time.monotonic() - started, 2)
            record.update({"seconds": seconds, "part_started": None, **news})
            if processes.is_main():
                write_record(out_dir, record)

        try:
            # what has a budget trains, which all processes do together
            result = function() if "budget" in type(settings).model_fields else processes.by_main(function)
        except BaseException:
            with contextlib.suppress(OSError):  # a full disk must not hide what happened
                end()
            raise
        end(status=DONE, peak_memory_bytes=machine.peak_memory_bytes(), result=result)
        _clear_up(out_dir)
        return processes.agreed(record)


def read_record(folder: Path) -> dict[str, Any] | None:
    """Return the record of a stage folder, None where there is none that can be read.

    Raises:
        DataError: a newer polygraft wrote it.
    """
    try:
        record = json.loads((folder / STAGE_FILE).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return None
    if not {"fingerprint", "status"} <= set(record):
        return None
    assert_known_format(folder / STAGE_FILE, record)
    return record


def left_over(folder: Path, arms: Mapping[str, Recipe], seeds: Sequence[int]) -> list[Path]:
    """Find the stages in the folders of a recipe's arms that the arms no longer have."""
    runs = [(stages_of(recipe), folder / arm / f"seed-{seed}") for arm, recipe in arms.items() for seed in seeds]
    found = [(path.parent, stages) for stages, run in runs for path in sorted(run.glob(f"[!.]*/{STAGE_FILE}"))]
    return [path for path, stages in found if path.name not in stages]


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Write stage.json in one step: it is either the old record or the new one, never half of it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / STAGE_FILE, json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def _same_stage(out_dir: Path, fingerprint: str) -> Path | None:
    """Find the same finished stage in another arm or seed of this recipe: <name>/<arm>/seed-<n>/<stage>."""
    for path in sorted(out_dir.parents[2].glob(f"*/seed-*/{out_dir.name}/{STAGE_FILE}")):
        record = read_record(path.parent)
        if record and record["fingerprint"] == fingerprint and record["status"] == DONE:
            return path.parent
    return None


def is_done(out_dir: Path, task: Task) -> bool:
    """Return whether the result of a recipe's stage is there, in its folder or another, so that nothing is computed."""
    found, aside = read_record(out_dir), read_record(set_aside(out_dir))
    own = [record for record in (found, aside) if record and record["fingerprint"] == task.fingerprint]
    if found and found["status"] == RUNNING and (found in own or task.only_grew_from(found)):
        return False  # it goes on
    return any(record["status"] == DONE for record in own) or _same_stage(out_dir, task.fingerprint) is not None


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)


def _flat(inputs: Sequence[str | Settings | None]) -> list[str]:
    """List checkpoints and the files that data sections name."""
    names: list[str] = []
    for item in inputs:
        if isinstance(item, TextData | PairData | Trim | InputData | Forgetting):
            names += [f"file:{name}" for name in data_files(item)]
        elif isinstance(item, str):
            names.append(item)
    return names


@dataclasses.dataclass(frozen=True)
class Task:
    """What a stage is to do: equal fingerprints mean equal results, whatever the `untold` settings are."""

    stage: str
    content: Mapping[str, Any]
    names: Sequence[str]
    untold: frozenset[str]

    @classmethod
    def of(
        cls,
        stage: str,
        settings: Settings,
        inputs: Sequence[str | Settings | None],
        seed: int | None,
        data_seed: int | None = None,
    ) -> Task:
        """Take the fingerprints of all inputs: their contents count, not their names."""
        names, wanted = _flat(inputs), settings.model_dump()
        if wanted.get("precision") == "auto":  # another one that the environment names is another setting
            wanted["precision"] = machine.named_precision()
        version = SCORES_VERSION if stage == "evaluate" else FINGERPRINT_VERSION
        content = {
            "format": version, "stage": stage, "settings": wanted, "seed": seed,
            "data": [data_settings(section) for section in inputs if isinstance(section, Settings)],
            "inputs": [fingerprint_of(name) for name in names],
        }  # fmt: skip
        if seed is not None and data_seed not in (None, seed):
            content["data_seed"] = data_seed
        fields = type(settings).model_fields
        untold = frozenset(name for name in NEWER & wanted.keys() if wanted[name] == fields[name].default)
        return cls(stage, content, names, untold)

    @property
    def fingerprint(self) -> str:
        aside = self.untold | SAME_RESULT
        told = {name: value for name, value in self.content["settings"].items() if name not in aside}
        return hashlib.sha256(json.dumps({**self.content, "settings": told}, sort_keys=True).encode()).hexdigest()

    @property
    def settings(self) -> dict[str, Any]:
        """The settings as stage.json has them."""
        seeds = {key: self.content[key] for key in ("seed", "data_seed") if key in self.content}
        return {**self.content["settings"], **seeds}

    def only_grew_from(self, found: Mapping[str, Any]) -> bool:
        """Whether this is the task of a record, but for a larger budget of the same unit."""
        before, budget = found["settings"].get("budget"), self.settings.get("budget")
        if not before or not budget:
            return False
        content = {**self.content, "settings": {**self.content["settings"], "budget": before}}
        same = dataclasses.replace(self, content=content).fingerprint == found["fingerprint"]
        return same and any(before[unit] and budget[unit] and budget[unit] > before[unit] for unit in budget)

    def record(self) -> dict[str, Any]:
        """Return a new stage.json."""
        return {
            "format": RESULT_FORMAT, "stage": self.stage,
            "status": RUNNING, "fingerprint": self.fingerprint, "settings": self.settings,
            "inputs": dict(zip(self.names, self.content["inputs"], strict=True)), "data": self.content["data"],
            "versions": machine.versions(), "git_commit": git_commit(), "machine": machine.describe(),
            "started": datetime.now(UTC).isoformat(timespec="seconds"), "seconds": 0.0, "part_started": time.time(),
        }  # fmt: skip


def _open(out_dir: Path, task: Task, replace: bool) -> dict[str, Any]:
    """Return the record, as it stands in `out_dir`, of what is done, of what goes on, or of what begins."""
    found, aside = read_record(out_dir), set_aside(out_dir)
    if found and found["status"] == DONE and found["fingerprint"] == task.fingerprint:
        return found
    if found and found["status"] == RUNNING and found["fingerprint"] == task.fingerprint:
        return _go_on(out_dir, found)
    if found and found["status"] == RUNNING and task.only_grew_from(found):
        grown = [*found.get("grown_from", []), found["settings"]["budget"]]
        print(f"{out_dir}: going on under a larger budget than it began with.", file=sys.stderr, flush=True)
        news = {"fingerprint": task.fingerprint, "settings": task.settings, "grown_from": grown}
        return _go_on(out_dir, found | news)
    _make_room(out_dir, task, found, replace)
    if (kept := read_record(aside)) and kept["fingerprint"] == task.fingerprint:
        os.rename(aside, out_dir)
        return kept
    if replace and (shared := _same_stage(out_dir, task.fingerprint)):
        with appearing(out_dir) as hidden:
            shutil.copytree(shared, hidden, copy_function=_link, dirs_exist_ok=True)
        return read_record(out_dir) or {}
    record = task.record()
    with appearing(out_dir) as hidden:
        write_record(hidden, record)
    return record


def _go_on(out_dir: Path, found: dict[str, Any]) -> dict[str, Any]:
    """Begin another part of a stage; one that was killed lasted until it last wrote something."""
    if found.get("part_started"):
        last = max(path.stat().st_mtime for path in out_dir.rglob("*"))
        found["seconds"] = round(found.get("seconds", 0.0) + max(0.0, last - found["part_started"]), 2)
    found |= {"part_started": time.time(), "seconds": found.get("seconds", 0.0)}
    write_record(out_dir, found)
    return found


def _make_room(out_dir: Path, task: Task, found: dict[str, Any] | None, replace: bool) -> None:
    """See to it that there is no `out_dir`: a finished result is set aside, one that has not begun goes.

    Raises:
        PolygraftError: it holds something else, or interrupted work, or a finished result and not `replace`.
    """
    if not out_dir.exists() or not any(out_dir.iterdir()):
        remove(out_dir)
        return
    if found is None:
        raise PolygraftError(f"{out_dir} is not empty and was not written by polygraft. Name another output folder.")
    how_far = _how_far(out_dir, found)
    if found["status"] == DONE and replace:
        remove(set_aside(out_dir))
        os.rename(out_dir, set_aside(out_dir))
    elif found["status"] == DONE or how_far:
        what = "the finished result of" if found["status"] == DONE else "an unfinished"
        raise PolygraftError(
            f"{out_dir} holds {what} '{found['stage']}'{how_far} with other settings or inputs"
            f"{differences(found, task)}. Name another output folder, or delete this one to begin anew."
        )
    else:
        remove(out_dir)


def _clear_up(out_dir: Path) -> None:
    """Remove what is of no use once a stage is done and its record says so: what it replaced, and its checkpoints."""
    if processes.is_main():
        remove(set_aside(out_dir))
        shutil.rmtree(out_dir / "checkpoints", ignore_errors=True)


def set_aside(out_dir: Path) -> Path:
    """Return where a finished result waits until another has taken its place."""
    return out_dir.with_name(f".{out_dir.name}.replaced")


def _how_far(out_dir: Path, found: Mapping[str, Any]) -> str:
    """Say how much of an interrupted training is kept; "" if none."""
    from polygraft.training.train import last_checkpoint

    if found["status"] == DONE or not any(out_dir.glob("checkpoints/checkpoint-*")):
        return ""
    checkpoint = last_checkpoint(out_dir)
    budget = {unit: amount for unit, amount in (found["settings"].get("budget") or {}).items() if amount}
    if not checkpoint or len(budget) != 1:
        return ", which has checkpoints,"
    from polygraft.training.spending import read_spending

    (unit, amount), spent = next(iter(budget.items())), read_spending(checkpoint)["spent"]
    if unit in spent:
        return f", {spent[unit]:,.6g} of {amount:,.6g} {unit},"
    return f", {spent['steps']:,} steps of a budget of {amount:g} {unit},"


def differences(found: Mapping[str, Any], task: Task) -> str:
    """Name the settings that differ from those of a record."""
    now = {name: value for name, value in task.settings.items() if name not in SAME_RESULT}
    before = {name: now.get(name) for name in task.untold} | found["settings"]
    changed = [key for key in now if key not in before or json.dumps(before[key]) != json.dumps(now[key])]
    return f" ({', '.join(changed)})" if changed else ""


def git_commit() -> str | None:
    """Return the commit that is checked out where polygraft is run from source, None for an installed package."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
