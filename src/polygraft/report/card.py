"""The model card (README.md) of a fine-tuned checkpoint: what it is, its scores, how it was made, how to load it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from polygraft.data.files import write_atomically
from polygraft.data.languages import match_code
from polygraft.errors import DataError
from polygraft.recipe import Recipe
from polygraft.recipe.reading import arm_recipes, load_recipe
from polygraft.report import files
from polygraft.report.files import Record, ScoresFile
from polygraft.report.folder import ALL_LANGUAGES, TITLES, SeedRun, read_seed
from polygraft.report.forgetting_view import card_rows
from polygraft.report.formats import MISSING, count, date, decimal, flops, interval, seconds
from polygraft.report.scores import language_title
from polygraft.report.stages_view import data_of, flat, inputs_of
from polygraft.scoring.forgetting import forgotten
from polygraft.scoring.metrics import METRICS, shown_first
from polygraft.scoring.words import LEADS

CARD_NAME = "README.md"
GENERATION = ("num_beams", "max_new_tokens", "no_repeat_ngram_size")
Rows = list[tuple[str, ...]]


def _shareable(value: str) -> str:
    """An absolute path is only true on the machine that trained: a card keeps its last part."""
    return Path(value).name if value.startswith(("/", "~")) or value[1:3] in (":\\", ":/") else value


def _cell(text: str) -> str:
    """Text that cannot break a Markdown table or be read as HTML."""
    return " ".join(text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").split())


def _settings(rows: list[tuple[str, str]]) -> Rows:
    return [(f"`{name}`", _shareable(value)) for name, value in rows]


def _source_code(source_lang: str | None, target: str, tokenizer: dict[str, Any]) -> str:
    """The input's language code: that of the pairs, in the tokenizer's spelling, else that of the output."""
    known = [str(code) for code in tokenizer.get("extra_special_tokens") or []] + [target]
    try:
        return match_code(source_lang or "", list(dict.fromkeys(known)))
    except DataError:
        return target


def _directions(recipe: Recipe, scores: ScoresFile, tokenizer: dict[str, Any]) -> list[tuple[str, str]]:
    """The codes of what is read and written in each language or direction that was scored."""
    named = [name.rpartition("-") for name in sorted(scores.systems.model) if name != ALL_LANGUAGES]
    return [
        (source or _source_code(recipe.pairs.source_lang, target, tokenizer), target) for source, _, target in named
    ]


def _scores(scores: ScoresFile, first: Sequence[str]) -> dict[str, Rows]:
    """A table by language, some scores `first`; of a single language, "all" would say the same again."""
    model, beside = scores.systems.model, (scores.systems.lead, scores.systems.reference)
    shown = [language for language in model if language != ALL_LANGUAGES or len(model) > 2]
    tables: dict[str, Rows] = {}
    for language in shown:
        rows: Rows = []
        for name in dict.fromkeys([*first, *METRICS]):
            metric = METRICS[name]
            score, others = model[language][name], [system[language].get(name) for system in beside]
            cells = [decimal(other.score if other else None, metric.places) for other in (score, *others)]
            ends = interval(score.low, score.high, metric.places)
            rows.append((f"{metric.title} ({metric.hint})", cells[0], ends, *cells[1:]))
        tables[language if language == ALL_LANGUAGES else language_title(language)] = rows
    return tables


def _history(run: SeedRun) -> Rows:
    """A line per stage that led to this checkpoint."""
    rows: Rows = []
    for stage in run.stages.values():
        if stage.record and stage.name not in ("evaluate", "forgetting"):
            result, settings = stage.result, stage.record.settings
            kind = settings.get("mode") or settings.get("objective")
            title = TITLES[stage.name] + (f" ({kind})" if kind else "")
            costs = count(result.steps), count(result.tokens), flops(result.flops), seconds(stage.record.seconds)
            rows.append((title, *costs, decimal(result.eval_loss, 3)))
    return rows


def _provenance(record: Record) -> Rows:
    rows: Rows = [*flat(record.versions), *flat(record.machine)]
    return [*rows, ("git commit", record.git_commit or MISSING), ("started", date(record.started))]


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _translates(directions: Sequence[tuple[str, str]]) -> bool:
    return any(source != target for source, target in directions)


def _front(base: str, model_type: str, directions: Sequence[tuple[str, str]]) -> dict[str, str]:
    """What the hub reads, as JSON: languages are those of the output, of translations also those of the input."""
    sources, targets = zip(*directions, strict=True)
    codes = (*targets, *sources) if _translates(directions) else targets
    task = "translation" if _translates(directions) else "text2text-generation"
    front = {
        "language": list(dict.fromkeys(code.split("_")[0] for code in codes)),
        "library_name": "transformers",
        "base_model": base,
        "tags": [model_type, task, "polygraft"],
    }
    return {name: json.dumps(value, ensure_ascii=False) for name, value in front.items()}


def model_card(folder: Path) -> str:
    """The Markdown of a model card for the checkpoint that a seed's run in `folder` (<run>/<arm>/seed-<n>) ends with.

    The same files give the same card.

    Raises:
        DataError: a file is missing or not as this version writes it.
    """
    folder = folder.resolve()
    run_dir, arm = folder.parents[1], folder.parent.name
    whole = load_recipe(run_dir / files.RECIPE)
    recipe = arm_recipes(whole)[arm]
    run = read_seed(run_dir, arm, recipe, int(folder.name.removeprefix("seed-")))
    tuned, evaluated, scores = run.stages["finetune"].record, run.stages["evaluate"].record, run.scores
    if tuned is None or evaluated is None or scores is None:
        raise DataError(f"{folder}: is not evaluated yet, so that there is no model card. Run the recipe again.")
    checkpoint = folder / "finetune"
    tokenizer = _json(checkpoint / "tokenizer_config.json")
    directions = _directions(recipe, scores, tokenizer)
    sources, languages = (list(dict.fromkeys(side)) for side in zip(*directions, strict=True))
    lead = LEADS[recipe.evaluate.lead_tokens == 0]
    base = _shareable(recipe.target)
    # cc25 names the output language at the decoder's start
    cc25 = str(tokenizer.get("tokenizer_class")).removesuffix("Fast") == "MBartTokenizer"
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = _cell
    return environment.get_template("card.md.j2").render(
        front=_front(base, _json(checkpoint / "config.json")["model_type"], directions),
        title=f"{recipe.name} · {arm}",
        base=base,
        source=sources[0],
        reads=sources if _translates(directions) else sources[:1],
        languages=languages,
        lead=lead,
        adapted=_json(checkpoint / "adapter" / "adapter_config.json").get("type") == "bottleneck",
        folder="path/to/this/folder",
        language_argument="decoder_start_token_id" if cc25 else "forced_bos_token_id",
        options="".join(f", {key}={evaluated.settings[key]}" for key in GENERATION),
        scores=_scores(scores, shown_first(whole.verdict)),
        documents=scores.documents,
        forgotten=card_rows(forgotten([run.restored])) if run.restored else [],
        signature=[(METRICS[name].title, f"`{said}`") for name, said in scores.signature.items()],
        history=_history(run),
        inputs=[(_shareable(name), kind) for name, kind in inputs_of(tuned)],
        data=_settings(data_of(tuned)),
        settings=_settings(flat(tuned.settings)),
        provenance=_provenance(tuned),
    )


def write_model_card(folder: Path) -> Path:
    """Write the model card of a seed's run to its finetune/README.md, atomically; return its path."""
    path = folder / "finetune" / CARD_NAME
    write_atomically(path, model_card(folder))
    return path
