"""Mix the pretraining text of the nano models: languages drawn by the square root of their size, small ones repeated.

The source reads all fifteen languages of the Debian corpus, the target only seven, as XLM-R knows a hundred languages
and mBART-50 fifty. Nothing but the `pretrain` split is read.

    python examples/nano/mixture.py --data data/debian --out outputs/nano
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

LANGUAGES = {
    "xlmr": ("en", "it", "da", "fr", "de", "pt", "ja", "uk", "sk", "ko", "pl", "ru", "es", "cs", "zh"),
    "mbart": ("en", "it", "da", "fr", "de", "pt", "ja"),
}
DOCUMENTS = 150_000
SAMPLING_EXPONENT = 0.5
VALIDATION_DOCUMENTS = 40  # per language


def read(path: Path) -> list[dict[str, str]]:
    rows = [json.loads(line) for line in path.open(encoding="utf-8")]
    return [{"text": row["text"], "lang": row["lang"]} for row in rows]


def write(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/debian"))
    parser.add_argument("--out", type=Path, default=Path("outputs/nano"))
    args = parser.parse_args()
    for name, languages in LANGUAGES.items():
        texts = {language: read(args.data / language / "pretrain.jsonl") for language in languages}
        weights = {language: len(rows) ** SAMPLING_EXPONENT for language, rows in texts.items()}
        generator, mixture = random.Random(1), []
        for language, rows in texts.items():
            wanted = round(DOCUMENTS * weights[language] / sum(weights.values()))
            copies, rest = divmod(wanted, len(rows))
            mixture += rows * copies + generator.sample(rows, rest)
        generator.shuffle(mixture)
        write(args.out / f"{name}-train.jsonl", mixture)
        held_out = [read(args.data / language / "validation.jsonl")[:VALIDATION_DOCUMENTS] for language in languages]
        write(args.out / f"{name}-validation.jsonl", [row for rows in held_out for row in rows])
        print(f"{name}: {len(mixture):,} documents in {len(languages)} languages")


if __name__ == "__main__":
    main()
