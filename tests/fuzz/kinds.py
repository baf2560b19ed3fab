"""The kinds of input that strangers give, and what must hold of each, however it is broken.

`use` gives a folder to polygraft as its users do and raises AssertionError where what came out is wrong; `parses` asks
the format's own parser, not polygraft's, whether an input is still well-formed.
"""

from __future__ import annotations

import csv
import gzip
import json
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet
import safetensors.torch
import torch
import yaml
from broken import SCRIPT
from typer.testing import CliRunner

from polygraft.cli import app
from polygraft.data.reading import iter_rows
from polygraft.inference.engine import open_engine
from polygraft.models.checkpoints import load_seq2seq, load_tokenizer
from polygraft.recipe.reading import dump_recipe, load_recipe
from polygraft.report.page import render
from polygraft.settings import Decoding

TEXTS = ["Paps читає файл у кодуванні UTF-8.", "Ein kleiner Editor, für Texte.", "텍스트 편집기", "a\tb \"c\" 'd', e"]
ROWS = [{"id": f"r{n}", "text": text, "summary": text[:9], "lang": "uk"} for n, text in enumerate(TEXTS * 2)]
DECODING = Decoding(num_beams=2, max_new_tokens=4, max_source_length_tokens=16)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of input: the format of each file that is broken ("" for bytes alone), and its use."""

    formats: dict[str, str]
    use: Callable[[Path], Any]
    parses: Callable[[Path], Any]


def _same(found: Any, expected: Any, what: str) -> None:
    assert found == expected, f"{what}: {str(found)[:200]} instead of {str(expected)[:200]}"


# recipes


def _use_recipe(folder: Path) -> None:
    recipe = load_recipe(folder / "recipe.yaml")
    (folder / "again.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(folder / "again.yaml") == recipe, "written and read again, it is another recipe"
    said = _keys(yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8")))
    kept = _keys(yaml.safe_load(dump_recipe(recipe)))
    assert said <= kept, f"keys that nobody refused and nobody kept: {sorted(said - kept)}"


def _keys(content: Any) -> set[str]:
    """The names of settings, but for what is null, a table of the user's own keys, or in a list."""
    if not isinstance(content, dict):
        return set()
    inside = (item for key, item in content.items() if key not in ("arms", "add_languages"))
    return {str(key) for key, item in content.items() if item is not None}.union(*map(_keys, inside))


# data


def _use_rows(name: str, read: Callable[[Path], Iterable[Any]]) -> Callable[[Path], None]:
    def use(folder: Path) -> None:
        found = [row["text"] for _, row in iter_rows(str(folder / name), ["text"])]
        _same(found, [text or "" for text in read(folder / name)], "its texts")

    return use


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise AssertionError("one key twice, and nothing was said")
    return dict(pairs)


def _lines(path: Path) -> list[str]:
    data = (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode("utf-8-sig")
    return data.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _parse_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in _lines(path) if line.strip()]


def _read_jsonl(path: Path) -> list[Any]:
    return [json.loads(line, object_pairs_hook=_unique).get("text") for line in _lines(path) if line.strip()]


def _read_json(path: Path) -> list[Any]:
    content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_unique)
    tables = [content] if isinstance(content, list) else [v for v in content.values() if isinstance(v, list) and v]
    rows = [content] if isinstance(content, dict) and "text" in content else tables[0]
    return [row.get("text") for row in rows]


def _separator(path: Path) -> str:
    return "," if path.suffix == ".csv" else "\t"


def _read_separated(path: Path) -> list[Any]:
    """By csv alone, blank lines left out."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = [
            row
            for row in csv.reader(file, strict=True, delimiter=_separator(path))
            if "".join(row).strip() or len(row) > 1
        ]
    return [dict(zip(rows[0], row, strict=True))["text"] for row in rows[1:]]


def _read_text(path: Path) -> list[str]:
    lines = _lines(path)
    return lines if lines[-1] else lines[:-1]


def _read_parquet(path: Path) -> list[Any]:
    return pyarrow.parquet.ParquetFile(path).read(["text"]).column("text").to_pylist()


def _write_jsonl(path: Path) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS), encoding="utf-8")


def _write_separated(path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(ROWS[0]), delimiter=_separator(path))
        writer.writeheader()
        writer.writerows(ROWS)


def _write_parquet(path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)


def _parse_whole(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _parse_separated(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file, strict=True, delimiter=_separator(path)))


Write, Parse, Read = Callable[[Path], Any], Callable[[Path], Any], Callable[[Path], list[Any]]
# (format, what writes it, its own parser, what reads its texts)
DATA: dict[str, tuple[str, Write, Parse, Read]] = {
    "rows.jsonl": ("jsonl", _write_jsonl, _parse_lines, _read_jsonl),
    "rows.json": ("json", lambda path: path.write_text(json.dumps(ROWS)), _parse_whole, _read_json),
    "rows.csv": ("csv", _write_separated, _parse_separated, _read_separated),
    "rows.tsv": ("tsv", _write_separated, _parse_separated, _read_separated),
    "rows.txt": ("txt", lambda path: path.write_text("\n".join(TEXTS)), _lines, _read_text),
    "rows.txt.gz": ("gz", lambda path: path.write_bytes(gzip.compress("\n".join(TEXTS).encode())), _lines, _read_text),
    "rows.parquet": ("parquet", _write_parquet, pyarrow.parquet.read_table, _read_parquet),
}  # fmt: skip


def _data_kind(name: str) -> Kind:
    file_format, _, parse, read = DATA[name]
    return Kind(formats={name: file_format}, use=_use_rows(name, read), parses=lambda folder: parse(folder / name))


# outputs of other toolkits, by the command


def _use_outputs(folder: Path) -> None:
    report = folder / "page.html"
    ran = CliRunner().invoke(app, ["compare", str(folder / "a.jsonl"), "--against", str(folder / "b.jsonl"),
                                   "--html", str(report), "--json"])  # fmt: skip
    if ran.exception and not isinstance(ran.exception, SystemExit):
        raise ran.exception
    assert ran.exit_code in (0, 2, 3), f"exit code {ran.exit_code}: {ran.output[-300:]}"
    assert "unexpected error" not in ran.output, ran.output[-300:]
    assert report.exists() == (ran.exit_code == 0), "a page without an answer, or an answer without its page"
    if ran.exit_code == 0:
        assert SCRIPT not in report.read_text(encoding="utf-8"), "text is run as a script"
        assert json.loads(ran.stdout)["primary"]["documents"] == len(_read_jsonl(folder / "a.jsonl"))


def _make_outputs(folder: Path) -> None:
    for name, cut in (("a", 7), ("b", 12)):
        rows = [{"id": row["id"], "prediction": row["text"][:cut], "reference": row["summary"]} for row in ROWS]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")


# checkpoints


def _use_tokenizer(folder: Path) -> None:
    tokenizer = load_tokenizer(str(folder))
    ids = tokenizer(TEXTS)["input_ids"]
    assert all(0 <= number < len(tokenizer) for row in ids for number in row), "an id beyond the vocabulary"
    tokenizer.batch_decode(ids)


def _use_weights(folder: Path) -> None:
    model = load_seq2seq(str(folder)).eval()
    saved = safetensors.torch.load_file(folder / "model.safetensors")
    for name, tensor in model.state_dict().items():
        if name in saved:
            assert torch.equal(tensor, saved[name].to(tensor.dtype)) or saved[name].isnan().any(), (
                f"{name}: other values"
            )
    unsaved = [name for name, _ in model.named_parameters() if name not in saved]
    assert not unsaved, f"weights that no file has, and nothing was said: {unsaved[:3]}"
    with torch.no_grad():
        model(input_ids=torch.tensor([[5, 6, 2]]), decoder_input_ids=torch.tensor([[2, 5]]))


def _use_model(folder: Path) -> None:
    engine = open_engine(str(folder))
    code = "uk_UA"
    if code in engine.tokenizer.get_vocab():
        outputs = engine.decode(TEXTS, [code] * len(TEXTS), [code] * len(TEXTS), DECODING)
        _same(len(outputs), len(TEXTS), "the number of outputs")


def _read_header(path: Path) -> Any:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    assert length <= len(data) - 8
    return json.loads(data[8 : 8 + length])


def _parse_json(*names: str) -> Callable[[Path], Any]:
    return lambda folder: [json.loads((folder / name).read_text(encoding="utf-8")) for name in names]


TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
CONFIGS = ("config.json", "generation_config.json")


# what polygraft wrote itself, and someone sent


def _use_run(folder: Path) -> None:
    page = render(folder)
    assert SCRIPT not in page, "text of a run's files is run as a script"


RUN_FILES = {
    "recipe.yaml": "yaml",
    "verdict.json": "json",
    "detour/seed-1/finetune/stage.json": "json",
    "detour/seed-1/finetune/metrics.jsonl": "jsonl",
    "detour/seed-1/evaluate/stage.json": "json",
    "detour/seed-1/evaluate/scores.json": "json",
    "detour/seed-1/evaluate/predictions.jsonl": "jsonl",
    "detour/seed-1/transfer/plan.json": "json",
    "diagnose.json": "json",
}


def _parses_run(folder: Path) -> None:
    for name, kind in RUN_FILES.items():
        text = (folder / name).read_text(encoding="utf-8")
        parse = {"yaml": yaml.safe_load, "json": json.loads}
        _parse_lines(folder / name) if kind == "jsonl" else parse[kind](text)


EXPORTED = {
    "export.json": "json",
    "config.json": "json",
    "shared_vocabulary.json": "json",
    "tokenizer.json": "json",
    "model.bin": "",
}
RECIPE = Path(__file__).parents[2] / "recipes" / "demo.yaml"

KINDS: dict[str, Kind] = {
    "recipe": Kind(
        formats={"recipe.yaml": "yaml"},
        use=_use_recipe,
        parses=lambda folder: yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8")),
    ),
    **{name: _data_kind(name) for name in DATA},
    "outputs": Kind(
        formats={"a.jsonl": "jsonl", "b.jsonl": "jsonl"},
        use=_use_outputs,
        parses=lambda folder: [_parse_lines(folder / name) for name in ("a.jsonl", "b.jsonl")],
    ),
    "tokenizer": Kind(formats=dict.fromkeys(TOKENIZER, "json"), use=_use_tokenizer, parses=_parse_json(*TOKENIZER)),
    "config": Kind(formats=dict.fromkeys(CONFIGS, "json"), use=_use_model, parses=_parse_json(*CONFIGS)),
    "weights": Kind(
        formats={"model.safetensors": "safetensors"},
        use=_use_weights,
        parses=lambda folder: _read_header(folder / "model.safetensors"),
    ),
    "run": Kind(formats=RUN_FILES, use=_use_run, parses=_parses_run),
    "exported": Kind(
        formats=EXPORTED, use=_use_model, parses=_parse_json(*(name for name, kind in EXPORTED.items() if kind))
    ),
}


def write_plain(good: Path) -> None:
    """Write the good files of all kinds that need no model: a folder each, of the kind's name."""
    for name in ("recipe", *DATA, "outputs"):
        (good / name).mkdir(parents=True)
    (good / "recipe" / "recipe.yaml").write_bytes(RECIPE.read_bytes())
    for name, (_, write, *_) in DATA.items():
        write(good / name / name)
    _make_outputs(good / "outputs")
