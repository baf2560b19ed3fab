"""Does a transfer help, and by what the source knows? Measured on held-out text, before fine-tuning is paid for.

Every arm runs up to its fine-tuning, and so do its placebos, which share what they can with it: a placebo costs one
transfer and one `adapt_target`. Each state of the target on the way restores removed spans of held-out documents. With
the recipe's first seed; intervals are over documents.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from polygraft import machine, processes, report
from polygraft.data.files import RESULT_FORMAT, write_atomically
from polygraft.diagnosis import held_out, layers
from polygraft.diagnosis.held_out import HeldOut, Losses
from polygraft.diagnosis.judge import Judgement, judge
from polygraft.errors import RecipeError
from polygraft.jobs import SideBySide
from polygraft.jobs.courses import Chain
from polygraft.jobs.together import run_chains
from polygraft.recipe import Recipe
from polygraft.recipe.placebos import EXPLANATIONS, is_placebo, placebo_name, placebos
from polygraft.recipe.reading import arm_recipes, dump_recipe
from polygraft.recipe.stages import stages_of
from polygraft.runs.arms import TARGET, adapt_arm
from polygraft.runs.fingerprints import fingerprint_of
from polygraft.runs.records import RECIPE_FILE
from polygraft.runs.steps import Step, Steps
from polygraft.settings import Diagnose, Placebo, Running, TextData
from polygraft.training.trackers import assert_installed

FILE, FOLDER = "diagnose.json", "diagnose"
AFTER = ("finetune", "evaluate", "forgetting")
MAP_SCORES = ("bridge_heldout_r2", "state_map_heldout_r2", "output_map_heldout_r2", "heldout_r2")


@dataclass(frozen=True, kw_only=True)
class State:
    """The target at one point of an arm: what was measured of it."""

    arm: str
    stage: str
    losses: Losses
    health: Mapping[str, Any]
    map_scores: Mapping[str, float]
    folder: Path

    def to_json(self, placebo_of: str | None = None) -> dict[str, Any]:
        reliance = self.losses.reliance()
        return {
            "arm": self.arm, "placebo_of": placebo_of, "stage": self.stage,
            "loss": asdict(self.losses.per_removed_token().estimate()),
            "whole": asdict(self.losses.per_token().estimate()),
            "reliance": None if reliance is None else asdict(reliance.estimate()), **self.health, **self.map_scores,
        }  # fmt: skip


def run(recipe: Recipe, how: SideBySide = SideBySide()) -> dict[str, Any]:
    """Run all arms up to their fine-tuning, measure them and their placebos; write diagnose.json and the report.

    They run side by side as `how` says.

    Returns:
        {"documents", "seed", "direct": the arm that adapts the target directly, "targets", "states": [State.to_json …]
        of the targets as they were, each once, and after each stage, "arms": [Judgement …], "layers": of
        `layers.compare` or None, "notes": [sentences], "placebos": {name: what it is}, "report": path of the page}.

    Raises:
        RecipeError: a recipe without text, or without an arm that transfers anything.
    """
    assert_installed(recipe.report_to)
    settings, seed = recipe.diagnose or Diagnose(), recipe.seeds[0]
    folder = Path(recipe.output_dir) / recipe.name
    arms = arm_recipes(recipe)
    transfers = {name: arm for name, arm in arms.items() if arm.transfer is not None and not is_placebo(arm)}
    if not transfers or any(arm.text is None for arm in arms.values()):
        raise RecipeError(
            "polygraft diagnose: the recipe needs `text`, on which to measure, and an arm with a `transfer` that takes "
            "something from a source."
        )
    text, documents = _held_out(arms, recipe.running.seed_of_data(seed), settings.max_samples)
    own = settings.model_copy(update={"placebos": ()})  # which of them are wanted changes nothing of what is measured
    rival_arms = {name: dict(placebos(arm, settings.placebos)) for name, arm in transfers.items()}
    everyone = arms | {placebo_name(of, kind): one for of, them in rival_arms.items() for kind, one in them.items()}
    chains = [
        Chain(
            rank=0, arm=name, recipe=one, stages=[stage for stage in stages_of(one) if stage not in AFTER],
            folder=(at := folder / name / f"seed-{seed}"),
            steps=_states(own, seed, at, text, documents, name, one),
        ) for name, one in everyone.items()
    ]  # fmt: skip
    states = dict(zip(everyone, run_chains(chains, how, folder), strict=True))
    found = {name: states[name] for name in arms}
    rivals = {of: {kind: states[placebo_name(of, kind)] for kind in them} for of, them in rival_arms.items()}
    direct = _direct(arms, found)
    judgements = [_judge(name, found, rivals[name], direct if direct != name else None) for name in transfers]
    targets = {states[TARGET].folder: states[TARGET] for states in reversed(found.values())}  # the first of equal ones
    shown: list[tuple[State, str | None]] = [(state, None) for states in found.values() for state in _changed(states)]
    shown += [(s, name) for name, of_arm in rivals.items() for states in of_arm.values() for s in _changed(states)]
    compared, notes = processes.by_main(lambda: layers.compare(next(iter(transfers.values())), seed))
    used = dict.fromkeys(kind for of_arm in rivals.values() for kind in of_arm)
    result = {
        "format": RESULT_FORMAT,
        "documents": len(next(iter(targets.values())).losses.languages), "seed": seed, "direct": direct,
        "targets": [target.to_json() for target in reversed(targets.values())],
        "states": [state.to_json(of) for state, of in shown], "arms": [asdict(one) for one in judgements],
        "layers": compared, "notes": notes, "placebos": {name: EXPLANATIONS[name] for name in used},
        "machine": machine.describe(), "versions": machine.versions(),
    }  # fmt: skip
    return result | {"report": processes.by_main(lambda: _write(folder, recipe, result))}


def _write(folder: Path, recipe: Recipe, result: dict[str, Any]) -> str:
    write_atomically(folder / FILE, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    write_atomically(folder / RECIPE_FILE, dump_recipe(recipe))
    return str(report.write(folder))


def _held_out(arms: Mapping[str, Recipe], seed: int, max_samples: int) -> tuple[TextData, HeldOut]:
    """The documents that all arms are measured on, and the text that they are from.

    Raises:
        RecipeError: an arm with a text of its own that holds out other documents: then nothing can be compared.
    """
    (first, text), *others = ((name, arm.text) for name, arm in arms.items() if arm.text is not None)
    documents = HeldOut.of(text, seed, max_samples)
    for name, own in others:
        if own != text and HeldOut.of(own, seed, max_samples) != documents:
            raise RecipeError(
                f"polygraft diagnose: arms.{name}.text holds out other documents than arm '{first}', so that the two "
                "cannot be compared. Give `text` of both the same validation_file."
            )
    return text, documents


def _states(
    settings: Diagnose, seed: int, folder: Path, text: TextData, documents: HeldOut, name: str, arm: Recipe
) -> Steps[dict[str, State]]:
    """Go through an arm up to its fine-tuning; measure the target as it was and after each stage that changed it."""
    states = {}
    adapted = yield from adapt_arm(arm, seed, folder)
    for stage, model in adapted.items():
        # arms and placebos have much in common: what is the same checkpoint is measured once
        out = folder.parents[1] / FOLDER / hashlib.sha256(fingerprint_of(model).encode()).hexdigest()[:16]
        record = yield Step(
            stage="diagnose", out_dir=out, settings=settings, inputs=[model, text],
            seed=arm.running.seed_of_data(seed), running=Running(), work=partial(held_out.run, model, documents, out),
        )  # fmt: skip
        states[stage] = State(
            arm=name,
            stage=stage,
            losses=Losses.load(out),
            health=record["result"],
            map_scores=_map_scores(Path(model)),
            folder=out,
        )
    return states


def _changed(states: Mapping[str, State]) -> list[State]:
    """The states after a stage."""
    return [state for stage, state in states.items() if stage != TARGET]


def _map_scores(folder: Path) -> dict[str, float]:
    """How well the transfer's map does on what it was not fitted on: the mean over layers where there are several."""
    try:
        figures = json.loads((folder / "diagnostics.json").read_text(encoding="utf-8"))
    except OSError:
        return {}
    scores = {}
    for stem in MAP_SCORES:
        values = [value for key, value in figures.items() if key.partition(".")[0] == stem]
        if values and "map_r2" not in scores:
            scores["map_r2"] = sum(values) / len(values)
    if "csls_precision_at_1" in figures:
        scores["csls_precision_at_1"] = figures["csls_precision_at_1"]
    return scores


def _direct(arms: Mapping[str, Recipe], found: Mapping[str, Mapping[str, State]]) -> str | None:
    """The arm that adapts the target without a source; of several the best, chosen on what all are measured on."""
    candidates = [
        name
        for name, arm in arms.items()
        if arm.adapt_target is not None and (arm.transfer is None or is_placebo(arm)) and arm.adapt is None
    ]
    return min(candidates, key=lambda name: _last(found[name]).losses.per_removed_token().value, default=None)


def _last(states: Mapping[str, State]) -> State:
    """The state that goes into fine-tuning."""
    return list(states.values())[-1]


def _judge(
    name: str, found: Mapping[str, dict[str, State]], rivals: Mapping[Placebo, dict[str, State]], direct: str | None
) -> Judgement:
    def losses(states: Mapping[str, State]) -> dict[str, Losses]:
        return {stage: state.losses for stage, state in states.items()}

    judgement = judge(
        name, losses(found[name]), None if direct is None else (direct, losses(found[direct])),
        {kind: _last(states).losses for kind, states in rivals.items()},
    )  # fmt: skip
    if direct is None:
        return judgement
    ends = found[name][TARGET], found[name]["transfer"], _last(found[direct])
    return replace(judgement, direction=held_out.direction(*(state.folder for state in ends)))
