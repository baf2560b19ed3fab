"""The models that are served: opened at the start, each by a name that says nothing of where it lies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from polygraft.data.languages import language_codes, language_prefix
from polygraft.errors import DataError, RecipeError
from polygraft.inference.engine import Engine, open_engine
from polygraft.models.recorded import quietly_chosen
from polygraft.recipe.reading import arm_recipes, load_recipe
from polygraft.runs.records import DONE, RECIPE_FILE, read_record
from polygraft.settings import Decoding


@dataclass(frozen=True)
class ServedModel:
    """A model by the name that requests and the page have for it.

    Attributes:
        codes: by all that a language may be called, the tokenizer's own code: `uk` and `uk_UA`.
    """

    name: str
    engine: Engine
    codes: Mapping[str, str]

    @classmethod
    def open(cls, name: str, place: str) -> ServedModel:
        """Open a checkpoint or an exported folder, and let it write a word, so that what fails, fails now.

        Raises:
            CheckpointError: it cannot be loaded.
            RecipeError: it needs something that is not installed.
        """
        model = cls.of(name, open_engine(place))
        code = model.own_codes[:1]
        model.engine.decode(["a"], code, code, Decoding(num_beams=1, max_new_tokens=2))
        return model

    @classmethod
    def of(cls, name: str, engine: Engine) -> ServedModel:
        """Give an engine its name, and its languages their short ones, where only one has it."""
        codes = language_codes(engine.tokenizer)
        times = Counter(map(language_prefix, codes))
        short = {language_prefix(code): code for code in codes if times[language_prefix(code)] == 1}
        return cls(name, engine, short | {code: code for code in codes})

    def languages(self, source: str | None, target: str | None) -> tuple[str, str]:
        """Return the codes of the two languages of a request, what the checkpoint records where it says nothing.

        Raises:
            RecipeError: a language that is neither given nor recorded.
            DataError: one that the model does not have.
        """
        for language in (source, target):
            if language is not None and language not in self.codes:
                raise DataError(
                    f"{self.name} has no language of that name. Its languages: {', '.join(self.own_codes)}."
                )
        given = (self.codes[source] if source else None, self.codes[target] if target else None)
        return quietly_chosen(self.name, self.own_codes, *given, self.engine.languages)

    @cached_property
    def own_codes(self) -> list[str]:
        """The tokenizer's codes."""
        return [code for name, code in self.codes.items() if name == code]


def open_all(places: Sequence[str]) -> dict[str, ServedModel]:
    """Open models and all arms of runs, by name.

    Raises:
        RecipeError: two of one name, a run without a fine-tuned model.
        DataError, CheckpointError: one that cannot be loaded.
    """
    named = [pair for place in places for pair in _named(place)]
    for name, count in Counter(name for name, _ in named).items():
        if count > 1:
            raise RecipeError(f"polygraft serve: --model: two models are called '{name}'. Rename a folder.")
    return {name: ServedModel.open(name, place) for name, place in named}


def _named(place: str) -> Iterator[tuple[str, str]]:
    """The names and places of what `--model` names: one model, or the arms of a run.

    A folder is called by its name and that of the one above it, since those of fine-tuning are all called alike.
    """
    path = Path(place)
    if (path / RECIPE_FILE).is_file():
        yield from _arms(path)
    elif path.is_dir():
        yield "/".join(path.resolve().parts[-2:]), place
    else:
        yield place, place


def _arms(run: Path) -> Iterator[tuple[str, str]]:
    """The fine-tuned models of a run, one per arm: that of the first of its seeds that is done."""
    found = False
    for arm, recipe in arm_recipes(load_recipe(run / RECIPE_FILE)).items():
        folders = [run / arm / f"seed-{seed}" / "finetune" for seed in recipe.seeds]
        done = [folder for folder in folders if (read_record(folder) or {}).get("status") == DONE]
        if done:
            found = True
            yield f"{run.resolve().name}: {arm}", str(done[0])
    if not found:
        raise RecipeError(
            f"{run}: no arm of this run is fine-tuned yet. Run it first: polygraft run {run / RECIPE_FILE}."
        )
