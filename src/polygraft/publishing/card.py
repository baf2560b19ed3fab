"""The model card (README.md) of a model: what it is, its scores, how it was made, from what, under which licences.

The front matter is written by the hub's own classes, whose parser reads it back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from transformers.models.mbart50.tokenization_mbart50 import FAIRSEQ_LANGUAGE_CODES

from polygraft.data.files import write_atomically
from polygraft.errors import DataError
from polygraft.models import bottleneck
from polygraft.publishing.facts import ModelFacts
from polygraft.publishing.licences import NOTICE, carried, findings, is_hub_licence
from polygraft.publishing.limits import limits
from polygraft.publishing.origins import FILE, DoneStage, shareable
from polygraft.report.files import Record, ScoresFile
from polygraft.report.folder import ALL_LANGUAGES, TITLES
from polygraft.report.forgetting_view import card_rows
from polygraft.report.formats import MISSING, count, date, decimal, flops, interval, seconds, size
from polygraft.report.scores import language_title
from polygraft.report.stages_view import data_of, flat, inputs_of
from polygraft.scoring.bootstrap import Bootstrap
from polygraft.scoring.forgetting import forgotten
from polygraft.scoring.metrics import METRICS
from polygraft.scoring.words import LEADS

CARD_NAME = "README.md"
MARK = "Written by polygraft"
GENERATION = ("num_beams", "max_new_tokens", "no_repeat_ngram_size")
HUB_METRICS = {"loss_per_token": "loss", "chrf++": "chrf", "bleu": "sacrebleu"}
"""What the hub calls scores; ROUGE of any kind is `rouge`, and others it does not know."""
PLACE = "path/to/this/folder"
SIDES = ("original", "exported")
Rows = list[tuple[str, ...]]
Task = Literal["translation", "summarization"]


def model_card(folder: Path, *, repo_id: str | None = None, license: str | None = None) -> str:
    """Return the Markdown of a model card for the checkpoint, or the exported model, in `folder`.

    The same files give the same card.

    Args:
        repo_id: where on the hub it goes, for the code that loads it.
        license: the licence that is chosen for it; without one, `licences.carried` says which it has, if any.

    Raises:
        DataError: a file is missing or not as this version writes it.
    """
    facts = ModelFacts.of(folder)
    if facts.place and facts.scores is None:
        raise DataError(f"{folder}: is not evaluated yet, so that there is no model card. Run the recipe again.")
    if not facts.stages:
        raise DataError(
            f"{folder}: has no stage.json, so nothing is known of how it was made. Write a {CARD_NAME} for it yourself."
        )
    chosen = license or carried(facts.origins)
    front = _front(facts, repo_id, chosen).to_yaml()
    card = ModelCard(f"---\n{front}\n---\n{_body(facts, repo_id, chosen)}")
    return str(card)


def write_model_card(folder: Path, *, repo_id: str | None = None, license: str | None = None) -> Path:
    """Write the model card into the folder of the model, atomically; return its path.

    A card from which the line "Written by polygraft" was taken is somebody's own, and stays as it is.
    """
    path = folder / CARD_NAME
    if not is_own(path):
        write_atomically(path, model_card(folder, repo_id=repo_id, license=license))
    return path


def is_own(path: Path) -> bool:
    """Whether there is a card that polygraft did not write, or that was made somebody's own."""
    return path.is_file() and MARK not in path.read_text(encoding="utf-8", errors="replace")


# ---------------------------------------------------------------- front matter


def task_of(facts: ModelFacts) -> Task:
    """The hub's name of what the model does: pairs are translations, or texts and summaries."""
    return "translation" if facts.translates else "summarization"


def _front(facts: ModelFacts, repo_id: str | None, licence: str | None) -> ModelCardData:
    """What the hub reads: languages are those of the output, of translations also those of the input."""
    sources, targets = zip(*facts.directions, strict=True)
    codes = (*targets, *sources) if facts.translates else targets
    models = [origin.hub for origin in facts.origins if origin.kind == "model" and origin.hub]
    texts = [origin.hub for origin in facts.origins if origin.kind == "text" and origin.hub]
    named: dict[str, Any] = {}
    if licence:
        named = {"license": licence} if is_hub_licence(licence) else {"license": "other", "license_name": licence}
    if models:
        named |= {"base_model": models, "base_model_relation": _relation(facts)}
    # an exported model has not been scored itself
    results = list(_results(facts, facts.scores)) if facts.scores and not facts.exported else []
    if results:
        named |= {"model_name": repo_id or facts.title, "eval_results": results}
    return ModelCardData(
        language=list(dict.fromkeys(code.split("_")[0] for code in codes)),
        library_name=_library(facts),
        pipeline_tag=task_of(facts),
        datasets=list(dict.fromkeys(texts)) or None,
        tags=[facts.config.get("model_type", "mbart"), "polygraft"],
        **named,
    )


def _relation(facts: ModelFacts) -> str:
    return "quantized" if facts.exported and facts.exported["quantization"] != "float32" else "finetune"


def _library(facts: ModelFacts) -> str:
    if facts.exported:
        return "ctranslate2"
    return "polygraft" if bottleneck.saved_settings(facts.folder / bottleneck.FOLDER) else "transformers"


def _results(facts: ModelFacts, scores: ScoresFile) -> Iterator[EvalResult]:
    """The scores as the hub's model-index has them: of each language, with intervals and signatures."""
    tests = _tests(facts)
    for language in _shown(scores):
        for name in _ordered(facts):
            kind = "rouge" if name.startswith("rouge") else HUB_METRICS.get(name)
            if kind:
                score = scores.systems.model[language][name]
                value, low, high = (round(number, 4) for number in (score.score, score.low, score.high))
                how = {"signature": scores.signature[name], "low": low, "high": high}
                yield EvalResult(
                    task_type=task_of(facts),
                    dataset_type=tests,
                    dataset_name=tests,
                    dataset_config=language,
                    dataset_split="test",
                    metric_type=kind,
                    metric_value=value,
                    metric_name=METRICS[name].title,
                    metric_args=how | {"confidence": Bootstrap.confidence},
                )


def _tests(facts: ModelFacts) -> str:
    """What the test pairs are called."""
    record = facts.evaluated[0] if facts.evaluated else None
    names = [name.removeprefix(FILE) for name in (record.inputs if record else ()) if name.startswith(FILE)]
    return ", ".join(map(str, shareable(names))) or "test pairs"


# ---------------------------------------------------------------- body


def _body(facts: ModelFacts, repo_id: str | None, licence: str | None) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = _cell
    sources, targets = (list(dict.fromkeys(side)) for side in zip(*facts.directions, strict=True))
    lead, tuned, evaluation = LEADS[facts.evaluation.lead_tokens == 0], facts.tuned, facts.evaluation
    cc25 = str(facts.tokenizer.get("tokenizer_class")).removesuffix("Fast") == "MBartTokenizer"
    return environment.get_template("card.md.j2").render(
        mark=MARK,
        title=repo_id.rpartition("/")[2] if repo_id else facts.title,
        base=facts.origins[0].name if facts.origins else facts.title,
        made=_made(facts),
        source=sources[0],
        reads=sources if facts.translates else sources[:1],
        languages=targets,
        lead=lead,
        adapted=_library(facts) == "polygraft",
        exported=facts.exported,
        parity=_parity(facts.exported) if facts.exported else [],
        folder=repo_id or PLACE,
        on_hub=repo_id is not None,
        # cc25 names the output language at the decoder's start
        language_argument="decoder_start_token_id" if cc25 else "forced_bos_token_id",
        cc25=cc25,
        known=FAIRSEQ_LANGUAGE_CODES[: 25 if cc25 else 52],  # those that its class takes as `src_lang`
        options="".join(f", {key}={getattr(evaluation, key)}" for key in GENERATION),
        generation=evaluation,
        scores=_scores(facts, facts.scores) if facts.scores else {},
        documents=facts.scores.documents if facts.scores else 0,
        forgotten=card_rows(forgotten([facts.place.run.restored])) if facts.place and facts.place.run.restored else [],
        signature=[(METRICS[name].title, f"`{said}`") for name, said in facts.scores.signature.items()]
        if facts.scores
        else [],
        verdict=facts.place.verdict.sentence if facts.place and facts.place.verdict else "",
        limits=list(limits(facts)),
        licence=licence,
        as_its_models=licence == carried(facts.origins),
        materials=[(f"`{one.name}`", one.kind, one.licence or "unknown") for one in facts.origins],
        findings=findings(facts.origins, licence),
        notice=_notice(facts),
        history=[_row(stage) for stage in facts.stages if stage.record.stage != "export"],
        total=_total(facts.stages),
        inputs=[(shareable(name), kind) for name, kind in inputs_of(tuned)] if tuned else [],
        data=_settings(data_of(tuned)) if tuned else [],
        settings=_settings(flat(shareable(tuned.settings))) if tuned else [],
        provenance=_provenance(tuned or facts.stages[-1].record),
    )


def _cell(text: str) -> str:
    """Text that cannot break a Markdown table or be read as HTML."""
    return " ".join(text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").split())


def _made(facts: ModelFacts) -> str:
    if facts.place:
        return f"arm '{facts.place.run.arm}', seed {facts.place.run.seed}, of the recipe '{facts.place.recipe.name}'"
    return ""


def _settings(rows: list[tuple[str, str]]) -> Rows:
    return [(f"`{name}`", value) for name, value in rows]


def _shown(scores: ScoresFile) -> list[str]:
    """The languages; of a single one, "all" would say the same again."""
    model = scores.systems.model
    return [language for language in model if language != ALL_LANGUAGES or len(model) > 2]


def _ordered(facts: ModelFacts) -> list[str]:
    return list(dict.fromkeys([*facts.shown_first, *METRICS]))


def _scores(facts: ModelFacts, scores: ScoresFile) -> dict[str, Rows]:
    """A table by language, some scores first."""
    model, beside = scores.systems.model, (scores.systems.lead, scores.systems.reference)
    tables: dict[str, Rows] = {}
    for language in _shown(scores):
        rows: Rows = []
        for name in _ordered(facts):
            metric = METRICS[name]
            score, others = model[language][name], [system[language].get(name) for system in beside]
            cells = [decimal(other.score if other else None, metric.places) for other in (score, *others)]
            ends = interval(score.low, score.high, metric.places)
            rows.append((f"{metric.title} ({metric.hint})", cells[0], ends, *cells[1:]))
        tables[language if language == ALL_LANGUAGES else language_title(language)] = rows
    return tables


def _parity(exported: dict[str, Any]) -> Rows:
    """How an exported model compares with its original."""
    found = exported["parity"]
    error = found["log_probability_error"]
    return [
        ("identical outputs", f"{found['identical_outputs']} of {found['documents']}"),
        ("chrF++ of the original, and of this", " and ".join(decimal(found["chrf"][one], 1) for one in SIDES)),
        ("log-probabilities differ by (mean, most; nats)", f"{error['mean']:.2g}, {error['max']:.2g}"),
        ("size of the original, and of this", " and ".join(size(found["bytes"][one]) for one in SIDES)),
    ]


def _row(stage: DoneStage) -> tuple[str, ...]:
    """A line for a stage that led to this model."""
    record = stage.record
    result, kind = record.result, record.settings.get("mode") or record.settings.get("objective")
    title = TITLES.get(stage.folder.name, record.stage) + (f" ({kind})" if kind else "")
    costs = count(result.steps), count(result.tokens), flops(result.flops), seconds(record.seconds)
    return (title, *costs, decimal(result.eval_loss, 3))


def _total(stages: Sequence[DoneStage]) -> str:
    """What all stages took together."""
    records = [stage.record for stage in stages if stage.record.stage != "export"]
    spent = sum(record.result.flops or 0.0 for record in records)
    devices = dict.fromkeys(f"{record.machine.get('device')}, {record.machine.get('cpus')} CPUs" for record in records)
    taken = sum(record.seconds for record in records)
    return f"{seconds(taken)} ({taken / 3600:.2g} hours) and {flops(spent)} on {'; '.join(devices)}"


def _notice(facts: ModelFacts) -> str:
    """The notice that goes along with what polygraft bundles."""
    return NOTICE.read_text(encoding="utf-8") if any(origin.bundled for origin in facts.origins) else ""


def _provenance(record: Record) -> Rows:
    rows: Rows = [*flat(record.versions), *flat(record.machine)]
    return [*rows, ("git commit", record.git_commit or MISSING), ("started", date(record.started))]


def read_card(path: Path) -> ModelCard:
    """Read a card as the hub does, and return it.

    Raises:
        DataError: its front matter is none that the hub's parser reads.
    """
    try:
        return ModelCard(path.read_text(encoding="utf-8"))
    except Exception as error:  # of YAML, of types: whatever the parser says
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: is no model card that the hub can read: {reason}. Mend it, or delete it.") from None
