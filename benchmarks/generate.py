"""Decoding with 4 beams beside plain `model.generate`, at the shape of mBART-large-50 in fp32: same outputs, less time.

The rival decodes the documents in the order of the file, with the same model, batch size and settings. Text and
tokenizer are real. The weights are random, except for one hidden dimension of the decoder that makes outputs end as
synopses do, after 13 tokens on average and at different times: position embeddings count up in it, the first
cross-attention adds an offset that depends on the source, nothing else writes it, and only </s> reads it. Each run is
a process of its own, the two ways take turns, and the table holds medians.

    python benchmarks/generate.py --rounds 3 --write docs/benchmarks.md
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import page
from real_size import CONFIGS, LANGUAGES, create_tokenizers

WAYS = ("plain", "polygraft")
TARGET, NEW_TOKENS = "uk_UA", 32
CLOCK = 0  # the hidden dimension that says how near the end is
CLOCK_START, CLOCK_STEP, CLOCK_SPREAD = -0.7, 0.3, 1.9  # at the first token, per token, among documents
END_GAIN = 4.0  # how strongly </s> reads it
SOURCE_GAIN = 4.0  # times the cross-attention's outputs, so that they differ with their sources


def documents(count: int) -> tuple[list[str], list[str]]:
    """Texts of the test sets and their language codes, the languages taking turns."""
    from polygraft.data.reading import read_rows

    each = -(-count // len(LANGUAGES))
    rows = {
        code: read_rows(f"polygraft/sample/{language}/test.parquet", ["text"])[:each]
        for language, code in LANGUAGES.items()
    }
    pairs = [(rows[code][number]["text"], code) for number in range(each) for code in rows][:count]
    return [text for text, _ in pairs], [code for _, code in pairs]


def settings(args: argparse.Namespace) -> Any:
    from polygraft.recipe import Evaluate

    return Evaluate(per_device_eval_batch_size=args.batch_size, max_new_tokens=NEW_TOKENS)


def create(args: argparse.Namespace) -> dict[str, Any]:
    """Save the model and its tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer

    from polygraft.inference.generate import encode_sources

    create_tokenizers(args.folder)
    tokenizer = AutoTokenizer.from_pretrained(args.folder / "target")
    torch.manual_seed(0)
    model: Any = AutoModelForSeq2SeqLM.from_config(AutoConfig.from_pretrained(CONFIGS / f"{args.shape}.json"))
    decoder = model.eval().get_decoder()
    with torch.inference_mode():
        model.lm_head.weight[:, CLOCK] = 0
        model.lm_head.weight[tokenizer.eos_token_id, CLOCK] = END_GAIN
        positions = decoder.embed_positions.weight
        positions[:, CLOCK] = CLOCK_START + CLOCK_STEP * torch.arange(len(positions))
        for layer in decoder.layers:
            layer.encoder_attn.out_proj.weight *= SOURCE_GAIN
            for writer in (layer.self_attn.out_proj, layer.encoder_attn.out_proj, layer.fc2):
                writer.weight[CLOCK] = 0

        # The first cross-attention looks at all of the source alike; its value 0 becomes the document's offset.
        attention, encoder = decoder.layers[0].encoder_attn, model.get_encoder()
        attention.q_proj.weight.zero_()
        rows = encode_sources(tokenizer, *documents(args.documents), settings(args).max_source_length_tokens)
        values = [attention.v_proj(encoder(torch.tensor([row]))[0])[0, :, 0].mean() for row in rows]
        mean, spread = torch.stack(values).mean(), torch.stack(values).std()
        attention.out_proj.weight[CLOCK, 0] = CLOCK_SPREAD / spread
        attention.out_proj.bias[CLOCK] = -CLOCK_SPREAD / spread * mean
    model.save_pretrained(args.folder / "target")
    return {}


def load(args: argparse.Namespace) -> tuple[Any, Any]:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    model: Any = AutoModelForSeq2SeqLM.from_pretrained(args.folder / "target")
    return model.to(args.device).eval(), AutoTokenizer.from_pretrained(args.folder / "target")


def run_polygraft(args: argparse.Namespace, model: Any, tokenizer: Any) -> list[str]:
    from polygraft.inference.generate import decode

    texts, codes = documents(args.documents)
    return decode(model, tokenizer, texts, codes, [TARGET] * len(texts), settings(args))


def run_plain(args: argparse.Namespace, model: Any, tokenizer: Any) -> list[str]:
    import torch

    how, rows, outputs = settings(args), [], []
    for text, code in zip(*documents(args.documents), strict=True):
        tokenizer.src_lang = code
        rows.append(tokenizer(text, truncation=True, max_length=how.max_source_length_tokens))
    for start in range(0, len(rows), args.batch_size):
        batch = tokenizer.pad(rows[start : start + args.batch_size], return_tensors="pt").to(model.device)
        with torch.inference_mode():
            generated = model.generate(
                **batch, forced_bos_token_id=tokenizer.convert_tokens_to_ids(TARGET), num_beams=how.num_beams,
                max_new_tokens=NEW_TOKENS, no_repeat_ngram_size=how.no_repeat_ngram_size, do_sample=False,
            )  # fmt: skip
        outputs += tokenizer.batch_decode(generated, skip_special_tokens=True)
    return outputs


def decoded(args: argparse.Namespace) -> dict[str, Any]:
    """One way's outputs, seconds (without loading) and peak memory."""
    from polygraft import machine

    model, tokenizer = load(args)
    started = time.perf_counter()
    outputs = (run_plain if args.worker == "plain" else run_polygraft)(args, model, tokenizer)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "peak_memory_bytes": machine.peak_memory_bytes(), "outputs": outputs}


def start(args: argparse.Namespace, worker: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--worker", worker, "--folder", str(args.folder), "--shape", args.shape]
    command += ["--documents", str(args.documents), "--batch-size", str(args.batch_size), "--device", args.device]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        sys.exit(f"{worker} failed:\n{run.stderr[-3000:]}")
    return json.loads(run.stdout.strip().splitlines()[-1])


def measure(args: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    results: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    start(args, "create")
    for number in range(args.rounds):
        for way in WAYS:
            results[way].append(start(args, way))
            numbers = {key: value for key, value in results[way][-1].items() if key != "outputs"}
            print(f"round {number + 1}: {way}: {numbers}", flush=True)
    return results


def table(args: argparse.Namespace, results: dict[str, list[dict[str, Any]]]) -> str:
    plain = [run["outputs"] for run in results["plain"]]
    different = max(
        sum(a != b for a, b in zip(plain[0], run["outputs"], strict=True)) for runs in results.values() for run in runs
    )
    lines = [
        f"`python benchmarks/generate.py`, median of {args.rounds} rounds, {page.about()}. {args.shape}'s shape, 4 "
        f"beams, batches of {args.batch_size}, {args.documents} documents in {len(LANGUAGES)} languages; "
        f"{lengths(args, plain[0])}. Outputs that differ: {different} of {args.documents}.",
        "", "| way | documents per second | ratio | peak memory | ratio |", "|---|---|---|---|---|",
    ]  # fmt: skip
    medians = {
        way: [statistics.median(run[key] for run in runs) for key in ("seconds", "peak_memory_bytes")]
        for way, runs in results.items()
    }
    for way, (seconds, memory) in medians.items():
        lines.append(
            f"| {way} | {args.documents / seconds:,.2f} | {medians['plain'][0] / seconds:.2f} | "
            f"{memory / 1e6:,.0f} MB | {memory / medians['plain'][1]:.2f} |"
        )
    return "\n".join(lines)


def lengths(args: argparse.Namespace, outputs: list[str]) -> str:
    """How long the sources and outputs are."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(args.folder / "target")
    said = []
    for name, texts in (("sources", documents(args.documents)[0]), ("outputs", outputs)):
        counts = [len(ids) for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]]
        said.append(
            f"{name} of {statistics.mean(counts):.0f} tokens (standard deviation {statistics.stdev(counts):.0f})"
        )
    return " and ".join(said)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--documents", type=int, default=48)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--shape", default="mbart-large-50", help="of tests/fixtures/published")
    parser.add_argument("--write", type=Path, help="a page whose part under '## generate' is replaced")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if args.worker:
        print(json.dumps((create if args.worker == "create" else decoded)(args)))
        return
    with tempfile.TemporaryDirectory() as folder:
        args.folder = Path(folder)
        result = table(args, measure(args))
    print(result)
    if args.write:
        page.write_section(args.write, "generate", result)


if __name__ == "__main__":
    main()
