"""A trimmed mBART-large-50 exported for CTranslate2 beside `model.generate` and polygraft's own beams, with 4 beams.

Text, tokenizer and model are those of benchmarks/generate.py, the vocabulary trimmed to the text. Each run is a process
of its own, the ways take turns, and the table holds medians.

    python benchmarks/export.py --rounds 3 --write docs/benchmarks.md
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import generate
import side_by_side

QUANTIZATIONS = ("float32", "int8")


def home(args: argparse.Namespace) -> Path:
    return generate.home(args)


def prepare(args: argparse.Namespace) -> None:
    """Save the model, trimmed to the text, and its exports."""
    from polygraft.settings import PairData, Trim
    from polygraft.stages import export, vocabulary

    generate.prepare(args)
    texts, codes = generate.documents(args)
    rows = [{"text": text, "summary": text[:60], "lang": code} for text, code in zip(texts, codes, strict=True)]
    file, trimmed = side_by_side.write_rows(home(args) / "rows.jsonl", rows), home(args) / "trimmed"
    if not trimmed.is_dir():
        vocabulary.run_trim(Trim(train_file=file), str(home(args) / "target"), trimmed)
    pairs = PairData(validation_file=file, source_lang_column="lang", target_lang=generate.TARGET)
    for quantization in QUANTIZATIONS:
        if not (home(args) / quantization).is_dir():
            settings = export.Export(quantization=quantization, max_samples=2, max_new_tokens=generate.NEW_TOKENS)
            export.run(settings, str(trimmed), pairs, home(args) / quantization)


def decoded(args: argparse.Namespace, way: str) -> dict[str, float]:
    """Decode all documents, loading aside; the outputs are kept beside the model."""
    from polygraft.inference.engine import open_engine

    engine = open_engine(str(home(args) / (way if way in QUANTIZATIONS else "trimmed")))
    texts, codes = generate.documents(args)
    targets, settings = [generate.TARGET] * len(texts), generate.settings(args)
    engine.decode(texts[:1], codes[:1], targets[:1], settings)
    started = time.perf_counter()
    if way == "plain":
        outputs = generate.plain(args, engine.network, engine.tokenizer)
    else:
        outputs = [one[0] for one in engine.decode(texts, codes, targets, settings)]
    seconds = time.perf_counter() - started
    (home(args) / f"exported outputs {way}.json").write_text(json.dumps(outputs))
    return {"documents_per_second": len(outputs) / seconds}


WAYS: dict[str, side_by_side.Way] = {
    way: lambda args, way=way: decoded(args, way) for way in ("plain", "polygraft", *QUANTIZATIONS)
}


def tables(medians: dict[str, dict[str, float]], args: argparse.Namespace) -> str:
    outputs = {way: json.loads((home(args) / f"exported outputs {way}.json").read_text()) for way in medians}
    rows = json.loads((home(args) / "trimmed" / "config.json").read_text())["vocab_size"]
    lines = [
        f"{args.model}'s shape with {rows:,} rows, {args.documents} documents in five languages, 4 beams, batches of "
        f"{args.batch}. plain: `model.generate` in fp32, in the order of the file; float32 and int8: CTranslate2.",
        "",
        "| way | documents per second | × plain | peak memory | weights | outputs as plain's |",
        "|---|---|---|---|---|---|",
    ]
    for way, row in medians.items():
        folder = home(args) / (way if way in QUANTIZATIONS else "trimmed")
        size = sum(path.stat().st_size for path in folder.iterdir() if path.suffix in (".bin", ".safetensors"))
        faster = row["documents_per_second"] / medians["plain"]["documents_per_second"]
        same = sum(a == b for a, b in zip(outputs["plain"], outputs[way], strict=True))
        lines.append(
            f"| {way} | {row['documents_per_second']:.2f} | {faster:.1f} | {row['peak_memory_bytes'] / 2**30:.1f} GiB "
            f"| {size / 2**30:.2f} GiB | {same} of {args.documents} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    defaults = {"model": "mbart-large-50", "documents": 48, "batch": 16}
    side_by_side.main(__file__, "export", WAYS, tables, __doc__, defaults, prepare)
