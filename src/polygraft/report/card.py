"""The model card (README.md) of a fine-tuned checkpoint: what it is, its scores, how it was made, how to load it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from polygraft.data.files import write_atomically
from polygraft.data.languages import match_code
from polygraft.errors import DataError
from polygraft.report.folder import ALL_LANGUAGES, STAGES, Reader, mapping, number
from polygraft.report.formats import count, date, decimal, flops, interval, plain, seconds
from polygraft.report.scores import metric_hint, metric_name, places_of
from polygraft.report.stages_view import STAGE_NAMES, data_of, flat, inputs_of

CARD_NAME = "README.md"
FOLDER = "path/to/this/folder"
PLAIN = "It is a plain Transformers checkpoint."


def _shareable(value: str) -> str:
    """An absolute path is only true on the machine that trained: a card keeps its last part."""
    return Path(value).name if value.startswith(("/", "~")) or value[1:3] in (":\\", ":/") else value


def _cell(text: object) -> str:
    """Text that cannot break a Markdown table or be read as HTML."""
    escaped = plain(text).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
    return " ".join(escaped.split())


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    if not rows:
        return []
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(_cell(cell) if cell != "---" else cell for cell in line) + " |" for line in lines] + [""]


def _settings_table(rows: list[tuple[str, str]]) -> list[str]:
    return _table(["setting", "value"], [[f"`{name}`", _shareable(value)] for name, value in rows])


def _inputs_table(record: dict[str, Any]) -> list[str]:
    return _table(["read by fine-tuning", ""], [[_shareable(name), kind] for name, kind in inputs_of(record)])


def _checkpoint(record: dict[str, Any]) -> str | None:
    """The model that fine-tuning started from, where no recipe says what the whole began with."""
    return next((name for name in mapping(record.get("inputs")) if not name.startswith("file:")), None)


def _languages(scores: dict[str, Any], tokenizer: dict[str, Any]) -> tuple[str, list[str]]:
    """(input language, output languages) as the tokenizer's codes."""
    by_language = mapping(mapping(scores.get("systems")).get("model"))
    targets = sorted(language for language in by_language if language != ALL_LANGUAGES)
    targets = targets or [str(tokenizer.get("tgt_lang") or tokenizer.get("src_lang") or "en_XX")]
    return targets[0], targets


def _source_code(record: dict[str, Any], target: str, tokenizer: dict[str, Any]) -> str:
    """The input's language code: that of the pairs, in the tokenizer's spelling, else that of the output."""
    wanted = dict(data_of(record)).get("source_lang") or ""
    known = [str(code) for code in tokenizer.get("extra_special_tokens") or []] + [target]
    try:
        return match_code(wanted, list(dict.fromkeys(known)))
    except DataError:
        return target


def _loading(tokenizer: dict[str, Any], source: str, target: str, evaluate: dict[str, Any]) -> list[str]:
    """Six lines of Python that need transformers only. cc25 names the output language at the decoder's start."""
    cc25 = str(tokenizer.get("tokenizer_class", "")).removesuffix("Fast") == "MBartTokenizer"
    role = "decoder_start_token_id" if cc25 else "forced_bos_token_id"
    options = {key: evaluate[key] for key in ("num_beams", "max_new_tokens", "no_repeat_ngram_size") if key in evaluate}
    given = "".join(f", {key}={json.dumps(value)}" for key, value in options.items() if number(value) is not None)
    return [
        "```python",
        "from transformers import AutoModelForSeq2SeqLM, AutoTokenizer",
        f'tokenizer = AutoTokenizer.from_pretrained("{FOLDER}", src_lang="{source}", tgt_lang="{target}")',
        f'model = AutoModelForSeq2SeqLM.from_pretrained("{FOLDER}").eval()',
        'batch = tokenizer("Put your text here.", return_tensors="pt", truncation=True)',
        f'output = model.generate(**batch, {role}=tokenizer.convert_tokens_to_ids("{target}"){given})',
        "print(tokenizer.batch_decode(output, skip_special_tokens=True)[0])",
        "```",
        "",
    ]


def _loading_with_adapters(source: str) -> list[str]:
    """What is different where bottleneck adapters could not be merged into the weights."""
    return [
        "## Loading it",
        "",
        "What was trained are bottleneck adapters; they are in `adapter/`, and cannot be merged into the weights. "
        "polygraft adds them:",
        "",
        "```sh",
        f"polygraft generate --model {FOLDER} --source-lang {source} --input-file texts.txt",
        "```",
        "",
        "Transformers alone loads the model **without** them, and the scores below are not those of that model:",
        "",
    ]


def _score_lines(scores: dict[str, Any]) -> list[str]:
    systems = mapping(scores.get("systems"))
    lines: list[str] = []
    by_language = mapping(systems.get("model"))
    if len(by_language) == 2:  # a single language: "all" would say the same again
        by_language.pop(ALL_LANGUAGES, None)
    for language, by_metric in by_language.items():
        lead = mapping(mapping(systems.get("lead")).get(language))
        rows = []
        for metric, entry in mapping(by_metric).items():
            value, baseline = (mapping(item).get("score", item) for item in (entry, lead.get(metric)))
            places = places_of(metric)
            ends = interval(mapping(entry).get("low"), mapping(entry).get("high"), places)
            name, hint = metric_name(metric), metric_hint(metric)
            rows.append([f"{name} ({hint})" if hint else name, decimal(value, places), ends, decimal(baseline, places)])
        lines += [f"**{_cell(language)}**", "", *_table(["score", "this model", "interval", "lead baseline"], rows)]
    if lines:
        documents = plain(scores.get("documents"))
        lines += [f"{documents} test documents. The lead baseline is the beginning of the input.", ""]
        signature = mapping(scores.get("signature")).items()
        lines += _table(["score", "signature"], [[metric_name(name), f"`{plain(value)}`"] for name, value in signature])
    return lines or ["This checkpoint has not been evaluated.", ""]


def _history_lines(folder: Path, reader: Reader) -> list[str]:
    """A line per stage that led to this checkpoint, from the stage.json files beside it."""
    rows = []
    for stage in STAGES[:-1]:
        record = reader.json(folder / stage / "stage.json")
        if record:
            result, settings = mapping(record.get("result")), mapping(record.get("settings"))
            kind = settings.get("mode") or settings.get("objective") or ""
            rows.append([STAGE_NAMES[stage] + (f" ({kind})" if kind else ""), count(result.get("steps")),
                         count(result.get("tokens")), flops(result.get("flops")), seconds(record.get("seconds")),
                         decimal(result.get("eval_loss"), 3)])  # fmt: skip
    return _table(["stage", "steps", "tokens", "FLOPs", "time", "held-out loss"], rows)


def _front_matter(languages: list[str], base: str | None, model_type: object) -> list[str]:
    matter: dict[str, Any] = {"language": list(dict.fromkeys(code.split("_")[0] for code in languages))}
    matter["library_name"] = "transformers"
    if base:
        matter["base_model"] = base
    matter["tags"] = [tag for tag in (str(model_type or ""), "text2text-generation", "polygraft") if tag]
    return ["---", yaml.safe_dump(matter, allow_unicode=True, sort_keys=False).rstrip(), "---", ""]


def model_card(finetune_dir: Path, evaluate_dir: Path) -> str:
    """The Markdown of a model card for the checkpoint in `finetune_dir`, scored in `evaluate_dir`.

    Reads stage.json, the configs, scores.json, and, where they stand beside, the earlier stages and the recipe; says
    so where one is missing. The same files give the same card.
    """
    finetune_dir, evaluate_dir = Path(finetune_dir), Path(evaluate_dir)
    reader = Reader(finetune_dir)
    record, evaluated = reader.json(finetune_dir / "stage.json"), reader.json(evaluate_dir / "stage.json")
    scores = reader.json(evaluate_dir / "scores.json")
    tokenizer, config = (reader.json(finetune_dir / name) for name in ("tokenizer_config.json", "config.json"))
    recipe_file = finetune_dir.resolve().parents[2] / "recipe.yaml" if len(finetune_dir.resolve().parts) > 4 else None
    recipe = reader.yaml(recipe_file)[0] if recipe_file and recipe_file.is_file() else {}
    base = str(recipe.get("target") or _checkpoint(record) or "") or None
    target, languages = _languages(scores, tokenizer)
    source = _source_code(record, target, tokenizer)
    arm = finetune_dir.resolve().parent.parent.name if recipe else ""
    title = " · ".join(str(part) for part in (recipe.get("name"), arm) if part) or finetune_dir.resolve().name
    settings = flat(mapping(record.get("settings")))
    provenance = [*flat(mapping(record.get("versions"))), *flat(mapping(record.get("machine")))]
    provenance += [("git commit", plain(record.get("git_commit"))), ("started", date(record.get("started")))]
    named = _shareable(base) if base else None
    adapted = reader.json(finetune_dir / "adapter" / "adapter_config.json").get("type") == "bottleneck"
    origin = f"`{_cell(named)}`" if named else "a checkpoint that was not recorded"
    return "\n".join(
        [
            *_front_matter(languages, named, config.get("model_type")),
            f"# {_cell(title)}",
            "",
            f"A sequence-to-sequence model, fine-tuned with polygraft from {origin}; input {_cell(source)}, output "
            f"{_cell(', '.join(languages))}. {'Its adapters are separate.' if adapted else PLAIN}",
            "",
            *(_loading_with_adapters(source) if adapted else ["## Loading it, without polygraft", ""]),
            *_loading(tokenizer, source, target, mapping(evaluated.get("settings"))),
            "## Scores",
            "",
            *_score_lines(scores),
            "## How it was made",
            "",
            *(_history_lines(finetune_dir.parent, reader) or ["No stage.json says how.", ""]),
            "## Data and models it was made from",
            "",
            *(_inputs_table(record) or ["Not recorded.", ""]),
            *_settings_table(data_of(record)),
            "## Fine-tuning settings",
            "",
            *(_settings_table(settings) or ["Not recorded.", ""]),
            "## Made with",
            "",
            *_table(["", ""], [[name, value] for name, value in provenance]),
        ]
    )


def write_model_card(finetune_dir: Path, evaluate_dir: Path) -> Path:
    """Write the model card to `finetune_dir`/README.md, atomically; return its path."""
    path = Path(finetune_dir) / CARD_NAME
    write_atomically(path, model_card(finetune_dir, evaluate_dir))
    return path
