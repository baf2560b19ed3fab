"""From what was found in the user's files to a recipe: languages, splits, models, numbers, and all of it in lines."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from polygraft.checks.models import Opened, model_warnings, open_model
from polygraft.checks.stages import Stages
from polygraft.data.languages import language_codes
from polygraft.data.sources import Names, label, listed
from polygraft.drafting.drafts import Draft, Found, parts_folder
from polygraft.drafting.languages import NewLanguage, new_language, same_language
from polygraft.drafting.lines import Facts, recipe_text
from polygraft.drafting.sizes import Texts, sizes
from polygraft.drafting.splits import Part, divide
from polygraft.drafting.wishes import Wishes
from polygraft.errors import CheckpointError, RecipeError
from polygraft.recipe.reading import arm_recipes, parse_recipe
from polygraft.recipe.yaml import read_yaml
from polygraft.settings import PairData, TextData

FEW_STEPS = 50


@dataclass(frozen=True, kw_only=True)
class SettledLanguages:
    """The language of each of a recipe's keys, why it is that, and what the target lacks."""

    of: dict[str, str]
    why: dict[str, str]
    added: list[NewLanguage]


def make(wishes: Wishes, found: Found, output: Path) -> Draft:
    """Make the recipe; see `drafting.draft`."""
    opened = open_both(str(wishes.source), str(wishes.target))
    languages = settle(wishes, found, opened[str(wishes.target)])
    columns = (found.columns.text, found.columns.summary)
    wanted = [] if found.pairs.test else ["test"]
    wanted += ["validation"] if wanted and not found.pairs.validation else []
    parts = divide(found.pairs.train, columns, found.columns.family, wanted) if wanted else []
    estimate = Stages(opened, round(wishes.device_memory) if wishes.device_memory else None)
    numbers = sizes(estimate, str(wishes.target), _texts(found, languages, parts), wishes.minutes, wishes.seeds)
    folder = parts_folder(output)
    files: dict[str, Names] = {
        "train_file": found.pairs.train,
        "validation_file": found.pairs.validation,
        "test_file": found.pairs.test,
    }
    files |= {f"{part.name}_file": (folder / f"{part.name}.jsonl").as_posix() for part in parts}
    facts = Facts(
        name=wishes.name or re.sub(r"^\W+|[^\w.-]+", "-", output.stem).strip("-.") or "recipe",
        wishes=wishes,
        found=found,
        files={key: names for key, names in files.items() if names},
        parted=bool(parts),
        languages=languages.of,
        why=languages.why,
        added=languages.added,
        sizes=numbers,
        parameters=opened[str(wishes.target)].report.parameters,
    )
    text = recipe_text(facts)
    recipe = parse_recipe(read_yaml(text)[0], str(output))
    arms = arm_recipes(recipe)
    notes = [*_notes(facts, parts, folder), *model_warnings(arms, opened, []), *estimate.warnings]
    return Draft(text=text, recipe=recipe, parts=parts, columns=columns, notes=list(dict.fromkeys(notes)))


def open_both(source: str, target: str) -> dict[str, Opened]:
    """Open the two models.

    Raises:
        CheckpointError: models that cannot be used, or each in the other's place.
    """
    opened, problems = {}, []
    for name, role in ((target, "target"), (source, "source")):
        try:
            opened[name] = open_model(name, role)
        except CheckpointError as error:
            problems.append(str(error))
    if len(problems) == 2 and source != target and _swapped(source, target):
        raise CheckpointError(f"the two models are swapped. Give --source {target} --target {source}.")
    if problems:
        raise CheckpointError("\n".join(problems))
    return opened


def _swapped(source: str, target: str) -> bool:
    try:
        return bool(open_model(source, "target") and open_model(target, "source"))
    except CheckpointError:
        return False


def settle(wishes: Wishes, found: Found, target: Opened) -> SettledLanguages:
    """Decide on every language: as it is given, as the column is called, or as the texts look.

    Raises:
        RecipeError: those that cannot be told, all at once.
        DataError: what is given is no language.
    """
    of: dict[str, str] = {}
    why: dict[str, str] = {}
    unknown: list[str] = []
    called = dict(zip(("source_lang", "target_lang"), found.columns.languages, strict=True))
    for key, seen in found.guesses.items():
        given, name = getattr(wishes, key), called.get(key)
        if given or name:
            of[key], why[key] = str(given or name), "as given" if given else "what the column is called after"
        elif seen.sure:
            of[key], why[key] = str(seen.language), str(seen)
        else:
            flag = f"--{key.replace('_', '-')}"
            unknown.append(f"  {flag}: {seen}. Name it ({flag} {seen.language or 'uk'}), or files of one language.")
    if unknown:
        raise RecipeError("\n".join(["polygraft init: languages that cannot be told:", *unknown]))
    of.setdefault("lang", of["source_lang"])
    codes = language_codes(target.tokenizer)
    added: dict[str, NewLanguage] = {}
    for language in dict.fromkeys(of.values()):
        if new := new_language(language, codes):
            added.setdefault(new.code, new)
    return SettledLanguages(of=of, why=why, added=list(added.values()))


def _text_of(found: Found) -> tuple[Names, tuple[str]]:
    """The files and the column of the plain text, or of what stands in for it."""
    return (found.text or found.pairs.train), (found.text_column,)


def _texts(found: Found, languages: SettledLanguages, parts: list[Part]) -> Texts:
    """What is trained on and scored, with the user's own files in place of those that are not written yet."""
    names, (column,) = _text_of(found)
    rows = {part.name: len(part.rows) for part in parts}
    pairs = PairData(
        train_file=found.pairs.train,
        test_file=found.pairs.test or found.pairs.train,
        text_column=found.columns.text,
        summary_column=found.columns.summary,
        source_lang=languages.of["source_lang"],
        max_train_samples=rows.get("train"),
    )
    text = TextData(train_file=listed(names), text_column=column, lang=languages.of["lang"])
    return Texts(text, pairs, rows.get("test"), held_out=not (parts or found.pairs.validation))


def _notes(facts: Facts, parts: list[Part], folder: Path) -> list[str]:
    """What the user should know of the choices that were made."""
    columns, languages = facts.found.columns, facts.languages
    task = "summarization" if same_language(languages["source_lang"], languages["target_lang"]) else "translation"
    said = [
        f"pairs: input '{columns.text}' ({languages['source_lang']}), output '{columns.summary}' "
        f"({languages['target_lang']}), {columns.why}: {task}"
    ]
    for key, seen in facts.found.guesses.items():
        doubt = seen.sure and not same_language(str(seen.language), languages[key])
        said.append(f"{key}: {languages[key]}, {facts.why[key]}" + (f"; but {seen}" if doubt else ""))
    if facts.found.text is None:
        said.append(
            "text: none is given; the inputs of the training pairs are adapted to. More text is better: --text."
        )
    said += [f"add_languages: {new.code} starts from {new.relative}: {new.why}" for new in facts.added]
    if parts:
        number = ", ".join(f"{len(part.rows):,} in {folder / f'{part.name}.jsonl'}" for part in parts)
        kept = f"; those of one '{columns.family}' stay together" if columns.family else ""
        said.append(f"pairs were set apart, {label(facts.found.pairs.train)} stays as it is: {number}{kept}")
    if facts.sizes.saving.why:
        room = f"{facts.sizes.available_bytes / 2**30:.1f} GiB"
        said.append(f"memory: {' and '.join(facts.sizes.saving.why)}, to fit into {room}")
    if facts.wishes.device_memory:
        said.append("time: budgets go by this machine's speed; on the device whose memory was given they take another.")
    if facts.sizes.steps < FEW_STEPS:
        said.append(
            f"time: {facts.wishes.minutes:g} minutes are {facts.sizes.steps} steps of fine-tuning, which is little. "
            "Give more --minutes, fewer --seeds, or a smaller target."
        )
    return said
