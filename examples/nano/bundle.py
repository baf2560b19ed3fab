"""Put the pretrained nano models into the package: fp16 safetensors, tokenizer, and a card with measured losses.

    python examples/nano/bundle.py --out outputs/nano --data data/debian --into src/polygraft/nano
    python examples/nano/bundle.py --real --into outputs/real ...    # instead, the target with the real vocabulary

All figures are measured here, on the files as bundled, on the `validation` split that no model was trained on. The
unigram cross-entropy beside them is that of each language's own token frequencies in the pretraining text, on the very
tokens that the model had to predict.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mixture import LANGUAGES
from pretrain import TEXT

from polygraft.data.dataset import TextDataset, text_dataset
from polygraft.data.languages import to_code
from polygraft.data.layout import IGNORED
from polygraft.data.reading import read_rows
from polygraft.measure.losses import denoising, mbart_task, noisy
from polygraft.measure.pieces import cut
from polygraft.models import checkpoints
from polygraft.objectives.mlm import MaskedLM
from polygraft.objectives.noise import Noise
from polygraft.settings import TextData

DOCUMENTS, BATCH, LENGTH, SEED = 100, 25, 128, 1
ALL_LANGUAGES = LANGUAGES["xlmr"]  # the target's card shows the languages that it has not read, too
CODES = {"sk": "cs_CZ"}  # mBART-50 has no code for Slovak


def read(data: Path, language: str, split: str, documents: int) -> list[dict[str, Any]]:
    return read_rows(str(data / language / f"{split}.jsonl"), ["text"])[:documents]


def tokenized(rows: list[dict[str, Any]], language: str, tokenizer: Any) -> TextDataset:
    return text_dataset(rows, TextData(train_file="", lang=language), tokenizer, LENGTH, coded=False)


def held_out(data: Path, language: str, tokenizer: Any) -> TextDataset:
    return tokenized(read(data, language, "validation", DOCUMENTS), language, tokenizer)


def unigram_nats(data: Path, language: str, tokenizer: Any) -> np.ndarray:
    """Return -log p of every token id by its frequency in the language's pretraining text (add-one smoothed)."""
    counts = np.ones(len(tokenizer))
    for row in read(data, language, "pretrain", 5000):
        np.add.at(counts, tokenizer(row["text"], add_special_tokens=False, verbose=False)["input_ids"], 1)
    return -np.log(counts / counts.sum())


def batches(dataset: TextDataset, objective: Any) -> list[dict[str, torch.Tensor]]:
    items = [dataset[i] for i in range(len(dataset))]
    return [objective.collate(items[start : start + BATCH]) for start in range(0, len(items), BATCH)]


@torch.inference_mode()
def measure_source(folder: Path, data: Path) -> list[dict[str, Any]]:
    model, tokenizer = checkpoints.load_masked_lm(str(folder)).eval(), checkpoints.load_tokenizer(str(folder))
    rows = []
    for language in ALL_LANGUAGES:
        objective = MaskedLM(tokenizer, 0.15, Noise(1, fixed=True))
        unigram, total, labels = unigram_nats(data, language, tokenizer), 0.0, []
        for batch in batches(held_out(data, language, tokenizer), objective):
            total += float(objective.loss(model, **batch))
            labels += batch["labels"][batch["labels"] != IGNORED].tolist()
        loss, baseline = total / len(labels), float(unigram[labels].mean())
        rows.append({"language": language, "masked tokens": len(labels), "MLM loss": loss, "unigram": baseline})
    return rows


def measure_target(folder: Path, data: Path) -> list[dict[str, Any]]:
    model, tokenizer = checkpoints.load_seq2seq(str(folder)).eval(), checkpoints.load_tokenizer(str(folder))
    objective = mbart_task(tokenizer)
    rows = []
    for language in ALL_LANGUAGES:
        texts = [row["text"] for row in read(data, language, "validation", DOCUMENTS)]
        code = tokenizer.convert_tokens_to_ids(to_code(CODES.get(language, language), tokenizer))
        pieces = cut(tokenizer, texts, LENGTH - 2)
        found = denoising(model, objective, pieces, [code] * len(texts), SEED)
        _, missing = noisy(objective, pieces, SEED)
        removed = np.concatenate([piece.ids[lacks] for piece, lacks in zip(pieces, missing, strict=True)])
        labels = sum(len(piece) + 1 for piece in pieces)  # </s> included
        whole, wrong = (float(bits.sum()) * math.log(2) / labels for bits in (found.bits, found.other_bits))
        rows.append({
            "language": language, "read in pretraining": "yes" if language in LANGUAGES["mbart"] else "no",
            "denoising loss": whole,
            "on removed tokens": float(found.removed_bits.sum()) * math.log(2) / len(removed),
            "unigram, removed tokens": float(unigram_nats(data, language, tokenizer)[removed].mean()),
            "another document's source": wrong, "source reliance": wrong - whole,
        })  # fmt: skip
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for row in rows:
        cells = [f"{v:.2f}" if isinstance(v, float) else f"{v:,}" if isinstance(v, int) else v for v in row.values()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def curve(phases: list[Path]) -> str:
    """Return the held-out loss against tokens read, over all phases, as a table of at most a dozen lines."""
    rows, before = [], 0
    for phase in phases:
        lines = [json.loads(line) for line in (phase / "metrics.jsonl").read_text().splitlines()]
        evals = [line for line in lines if "eval_loss" in line and line["step"]]
        for line in evals[:: max(1, len(evals) // 5)] + evals[-1:]:
            rows.append({"phase": phase.name, "tokens read": before + line["tokens"], "loss": line["eval_loss"]})
        before += lines[-1]["tokens"]
    unique = {(row["phase"], row["tokens read"]): row for row in rows}
    return markdown(list(unique.values()))


CARD = """---
license: apache-2.0
library_name: transformers
tags: [polygraft, nano]
language: [{languages}]
---

# polygraft/{name}

{what} {parameters:,} parameters, fp16. Made to try polygraft on a laptop: it mirrors the layout and the architecture
of the real model, and it is far too small for anything else.

Pretrained by `examples/nano/` from random weights with polygraft's own `adapt`, on the long texts of Debian's package
descriptions and the help of LibreOffice and GNOME (`pretrain` splits, {documents:,} documents drawn by the square root
of each language's tokens): {tokens:,} tokens read, {hours:.1f} hours of one CPU core that had other work beside.

## Held-out loss (nats per token, {held_out} documents per language, none of them read in pretraining)

{table}

{reading}

## Learning curve (held-out loss of that phase's own task)

{curve}
"""


def bundle(kind: str, name: str, what: str, reading: str, out: Path, data: Path, into: Path) -> None:
    phases = sorted(out.glob(f"{kind}-phase*"))
    text = TEXT[kind]
    load = checkpoints.load_masked_lm if kind == "xlmr" else checkpoints.load_seq2seq
    folder, model = into / name, load(str(phases[-1]))
    checkpoints.save(model.half(), checkpoints.load_tokenizer(str(phases[-1])), folder)
    rows = measure_source(folder, data) if kind == "xlmr" else measure_target(folder, data)
    last = [json.loads((phase / "metrics.jsonl").read_text().splitlines()[-1]) for phase in phases]
    card = CARD.format(
        languages=", ".join(LANGUAGES[text]), name=name, what=what, parameters=model.num_parameters(),
        documents=len((out / f"{text}-train.jsonl").read_text().splitlines()), tokens=sum(x["tokens"] for x in last),
        hours=sum(x["seconds"] for x in last) / 3600, held_out=DOCUMENTS, table=markdown(rows), reading=reading,
        curve=curve(phases),
    )  # fmt: skip
    (folder / "README.md").write_text(card, encoding="utf-8")
    (folder / "measured.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(f"{folder}: {sum(p.stat().st_size for p in folder.iterdir()) / 1e6:.1f} MB\n{markdown(rows)}\n")


def arguments(description: str | None) -> argparse.Namespace:
    """Where the pretrained models, the text and the package are."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/nano"))
    parser.add_argument("--data", type=Path, default=Path("data/debian"))
    parser.add_argument("--into", type=Path, default=Path("src/polygraft/nano"))
    parser.add_argument("--real", action="store_true", help="the target with the real vocabulary, instead of the pair")
    return parser.parse_args()


RELIANCE = (
    "Losses are those of text and `</s>`. Source reliance: the loss with another document's source minus the loss with "
    "the right one. Danish has its own code after `<mask>`, as a user adds a language; Slovak is shown under Czech's."
)


def main() -> None:
    args = arguments(__doc__)
    places = args.out, args.data, args.into
    if args.real:
        what = "mBART-50's layout and 30,000 of its own pieces (`MBartForConditionalGeneration`), 7 languages."
        bundle("real", "real-vocabulary-mbart", what, RELIANCE, *places)
        return
    bundle(
        "xlmr", "nano-xlmr", "A nano XLM-R (`XLMRobertaForMaskedLM`, post-LN) that reads 15 languages.",
        "MLM loss at 15% masking; unigram: the cross-entropy of the same masked tokens by frequency alone.", *places,
    )  # fmt: skip
    bundle(
        "mbart", "nano-mbart",
        "A nano mBART-50 (`MBartForConditionalGeneration`, pre-LN, scaled embeddings, relu) that reads 7 languages.",
        RELIANCE, *places,
    )  # fmt: skip


if __name__ == "__main__":
    main()
