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
import statistics
import time
from pathlib import Path
from typing import Any

import real_size
import side_by_side

TARGET, NEW_TOKENS = "uk_UA", 32
CLOCK = 0  # the hidden dimension that says how near the end is
CLOCK_START, CLOCK_STEP, CLOCK_SPREAD = -0.7, 0.3, 1.9  # at the first token, per token, among documents
END_GAIN = 4.0  # how strongly </s> reads it
SOURCE_GAIN = 4.0  # times the cross-attention's outputs, so that they differ with their sources


def home(args: argparse.Namespace) -> Path:
    """Where this benchmark's model and outputs are."""
    return args.folder / "generate"


def documents(args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Texts of the test sets and their language codes."""
    rows = side_by_side.rows("test", args.documents, ["text"])
    return [row["text"] for row in rows], [row["lang"] for row in rows]


def settings(args: argparse.Namespace) -> Any:
    from polygraft.settings import Evaluate

    return Evaluate(per_device_eval_batch_size=args.batch, max_new_tokens=NEW_TOKENS)


def prepare(args: argparse.Namespace) -> None:
    """Save the model and its tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer

    from polygraft.inference.generate import encode_sources

    folder = home(args) / "target"
    if (folder / "model.safetensors").is_file():
        return
    real_size.create_tokenizers(home(args))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(side_by_side.CONFIGS / f"{args.model}.json")
    model: Any = AutoModelForSeq2SeqLM.from_config(config).eval()
    decoder, encoder = model.get_decoder(), model.get_encoder()
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
        attention = decoder.layers[0].encoder_attn
        attention.q_proj.weight.zero_()
        rows = encode_sources(tokenizer, *documents(args), settings(args).max_source_length_tokens)
        values = [attention.v_proj(encoder(torch.tensor([row]))[0])[0, :, 0].mean() for row in rows]
        mean, spread = torch.stack(values).mean(), torch.stack(values).std()
        attention.out_proj.weight[CLOCK, 0] = CLOCK_SPREAD / spread
        attention.out_proj.bias[CLOCK] = -CLOCK_SPREAD / spread * mean
    model.save_pretrained(folder)


def decoded(args: argparse.Namespace, way: str) -> dict[str, float]:
    """Decode all documents, loading aside; the outputs are kept beside the model."""
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(home(args) / "target")
    model: Any = AutoModelForSeq2SeqLM.from_pretrained(home(args) / "target")
    model.to(args.device).eval()
    started = time.perf_counter()
    outputs = (plain if way == "plain" else polygraft)(args, model, tokenizer)
    seconds = time.perf_counter() - started
    outputs_file(args, way).write_text(json.dumps(outputs))
    return {"documents_per_second": len(outputs) / seconds}


def outputs_file(args: argparse.Namespace, way: str) -> Path:
    return home(args) / f"outputs {way}.json"


def polygraft(args: argparse.Namespace, model: Any, tokenizer: Any) -> list[str]:
    from polygraft.inference.generate import decode

    texts, codes = documents(args)
    return decode(model, tokenizer, texts, codes, [TARGET] * len(texts), settings(args))


def plain(args: argparse.Namespace, model: Any, tokenizer: Any) -> list[str]:
    import torch

    how, rows, outputs = settings(args), [], list[str]()
    for text, code in zip(*documents(args), strict=True):
        tokenizer.src_lang = code
        rows.append(tokenizer(text, truncation=True, max_length=how.max_source_length_tokens))
    for start in range(0, len(rows), args.batch):
        batch = tokenizer.pad(rows[start : start + args.batch], return_tensors="pt").to(model.device)
        with torch.inference_mode():
            generated = model.generate(
                **batch, forced_bos_token_id=tokenizer.convert_tokens_to_ids(TARGET), num_beams=how.num_beams,
                max_new_tokens=NEW_TOKENS, no_repeat_ngram_size=how.no_repeat_ngram_size, do_sample=False,
            )  # fmt: skip
        outputs += tokenizer.batch_decode(generated, skip_special_tokens=True)
    return outputs


WAYS: dict[str, side_by_side.Way] = {way: lambda args, way=way: decoded(args, way) for way in ("plain", "polygraft")}


def tables(medians: dict[str, dict[str, float]], args: argparse.Namespace) -> str:
    from transformers import AutoTokenizer

    outputs = {way: json.loads(outputs_file(args, way).read_text()) for way in WAYS}
    differing = sum(a != b for a, b in zip(outputs["plain"], outputs["polygraft"], strict=True))
    tokenizer = AutoTokenizer.from_pretrained(home(args) / "target")
    lengths = []
    for name, texts in (("sources", documents(args)[0]), ("outputs", outputs["plain"])):
        counts = [len(ids) for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]]
        mean, spread = statistics.mean(counts), statistics.stdev(counts)
        lengths.append(f"{name} have {mean:.0f} tokens (standard deviation {spread:.0f})")
    lines = [
        f"{args.model}'s shape in fp32, {args.documents} documents in five languages, 4 beams, batches of "
        f"{args.batch}; {', '.join(lengths)}. plain: `model.generate` in the order of the file.",
        "",
        "| way | documents per second | × plain | peak memory | of plain |\n|---|---|---|---|---|",
    ]
    for way, row in medians.items():
        speed, memory = row["documents_per_second"], row["peak_memory_bytes"]
        faster, smaller = (row[key] / medians["plain"][key] for key in ("documents_per_second", "peak_memory_bytes"))
        lines.append(f"| {way} | {speed:.2f} | {faster:.1f} | {memory / 2**30:.1f} GiB | {smaller:.2f} |")
    return "\n".join([*lines, "", f"Outputs that differ: {differing} of {args.documents}."])


if __name__ == "__main__":
    defaults = {"model": "mbart-large-50", "documents": 48, "batch": 16}
    side_by_side.main(__file__, "generate", WAYS, tables, __doc__, defaults, prepare)
