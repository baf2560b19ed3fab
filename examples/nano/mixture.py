"""Mix the pretraining text of the nano models: languages drawn by the square root of their tokens, small ones repeated.

The source reads fifteen languages, the target only seven, as XLM-R knows a hundred languages and mBART-50 fifty.
Nothing but the `pretrain` splits of `examples/debian/` is read, package descriptions and help. Two languages are read
by neither, for experiments on what is new to both: Finnish, in letters that they know, and Greek, in none.

    python examples/nano/mixture.py --data data/debian --out outputs/nano
"""

from __future__ import annotations

import argparse
import json
import random
from itertools import accumulate
from pathlib import Path

from transformers import AutoTokenizer

from polygraft.data.dataset import tokenize_stream

LANGUAGES = {
    "xlmr": ("en", "it", "da", "fr", "de", "pt", "ja", "uk", "sk", "ko", "pl", "ru", "es", "cs", "zh"),
    "mbart": ("en", "it", "da", "fr", "de", "pt", "ja"),
}
HELD_OUT = ("fi", "el")
TOKENS = {"xlmr": 20_000_000, "mbart": 15_000_000}  # of the mixture, which is read several times
SAMPLING_EXPONENT = 0.5
VALIDATION_DOCUMENTS = 40  # per language


def read(data: Path, language: str, split: str = "pretrain") -> list[dict[str, str]]:
    """Read a split of a language: package descriptions, then help."""
    files = (data / language / name for name in (f"{split}.jsonl", f"help-{split}.jsonl"))
    return [json.loads(line) for path in files if path.exists() for line in path.open(encoding="utf-8")]


def write(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"text": row["text"], "lang": row["lang"]}, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")


def draw(rows: list[dict[str, str]], sizes: list[int], wanted: int, generator: random.Random) -> list[dict[str, str]]:
    """Return all rows as often as they fit into the wanted number of tokens, and of the rest a random part."""
    copies, rest = divmod(wanted, sum(sizes))
    order = generator.sample(range(len(rows)), len(rows))
    ends = accumulate(sizes[i] for i in order)
    return rows * copies + [rows[i] for i, end in zip(order, ends, strict=True) if end <= rest]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/debian"))
    parser.add_argument("--out", type=Path, default=Path("outputs/nano"))
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.out / "tokenizers" / "xlmr")
    for name, languages in LANGUAGES.items():
        texts = {language: read(args.data, language) for language in languages}
        sizes = {
            language: [len(ids) for ids in tokenize_stream(tokenizer, (row["text"] for row in rows))]
            for language, rows in texts.items()
        }
        totals = {language: sum(lengths) for language, lengths in sizes.items()}
        scale = TOKENS[name] / sum(total**SAMPLING_EXPONENT for total in totals.values())
        generator, mixture = random.Random(1), []
        for language, rows in texts.items():
            wanted = round(scale * totals[language] ** SAMPLING_EXPONENT)
            mixture += draw(rows, sizes[language], wanted, generator)
            print(f"{name} {language}: {totals[language]:,} tokens, read {wanted / totals[language]:.2f} times a pass")
        generator.shuffle(mixture)
        write(args.out / f"{name}-train.jsonl", mixture)
        held_out = [
            [json.loads(line) for line in (args.data / language / "validation.jsonl").open(encoding="utf-8")]
            for language in languages
        ]
        write(args.out / f"{name}-validation.jsonl", [row for rows in held_out for row in rows[:VALIDATION_DOCUMENTS]])
        print(f"{name}: {len(mixture):,} documents in {len(languages)} languages")


if __name__ == "__main__":
    main()
