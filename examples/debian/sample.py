"""Cut the bundled sample text out of the full Debian corpus: a low-resource user's data, in five languages.

Every language gets four files: monolingual text to adapt to, and text with synopsis to train on, to choose on and to
test on. They hold none of the families that the nano models were pretrained on, and share none among themselves.

    python examples/debian/sample.py --data data/debian --out src/polygraft/nano/sample

With `--fresh FOLDER` it writes the `fresh` split of every language there, and nothing else: test data for a claim, not
to be looked at before. Finnish and Greek, which neither nano model reads, have pages of help with their titles, too.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
from build import MIN_PARAGRAPH_CHARS

# French and German are known to both nano models; Ukrainian, Polish and Korean only to nano XLM-R.
LANGUAGES = ("fr", "de", "uk", "pl", "ko")
ALL_LANGUAGES = ("en", "it", "da", "fr", "de", "pt", "ja", "uk", "sk", "ko", "pl", "ru", "es", "cs", "zh", "fi", "el")
WITH_HELP = ("fi", "el")
MAX_FRESH = 1000
MAX_DOCUMENTS = {"adapt": 450, "train": 300, "validation": 120, "test": 240}
COLUMNS = {"adapt": ("id", "family", "lang", "text")}
PAIR_COLUMNS = ("id", "family", "lang", "text", "summary")


def write(path: Path, rows: list[dict[str, str]], columns: tuple[str, ...]) -> None:
    """Write rows, compressed, and say how many."""
    table = pyarrow.table({name: [row[name] for row in rows] for name in columns})
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, path, compression="zstd", compression_level=19)
    print(f"{path}: {len(rows)} documents, {path.stat().st_size / 1000:.0f} kB")


def read(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.open(encoding="utf-8")] if path.exists() else []


def paragraphs(row: dict[str, str]) -> set[str]:
    """The paragraphs that say something about kinship."""
    return {p for p in row["text"].split("\n") if len(p) >= MIN_PARAGRAPH_CHARS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/debian"))
    parser.add_argument("--out", type=Path, default=Path("src/polygraft/nano/sample"))
    parser.add_argument("--fresh", type=Path, help="a folder for the `fresh` split, instead of the sample")
    args = parser.parse_args()
    for language in ALL_LANGUAGES if args.fresh else ():
        rows = read(args.data / language / "fresh.jsonl")
        rows += read(args.data / language / "help-fresh.jsonl") if language in WITH_HELP else []
        others = [path for path in (args.data / language).glob("*.jsonl") if "fresh" not in path.name]
        seen = {p for path in others for row in read(path) for p in paragraphs(row)}
        rows = [row for row in rows if not seen & paragraphs(row)]  # translators share more than the English does
        write(args.fresh / f"{language}.parquet", rows[:MAX_FRESH], PAIR_COLUMNS)
    for language in () if args.fresh else LANGUAGES:
        for split, most in MAX_DOCUMENTS.items():
            rows = read(args.data / language / f"{split}.jsonl")[:most]
            write(args.out / language / f"{split}.parquet", rows, COLUMNS.get(split, PAIR_COLUMNS))


if __name__ == "__main__":
    main()
