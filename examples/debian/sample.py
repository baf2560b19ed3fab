"""Cut the bundled sample text out of the full Debian corpus: a low-resource user's data, in five languages.

Every language gets four files: monolingual text to adapt to, and text with synopsis to train on, to choose on and to
test on. They hold none of the families that the nano models were pretrained on, and share none among themselves.

    python examples/debian/sample.py --data data/debian --out src/polygraft/nano/sample
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet

# French and German are known to both nano models; Ukrainian, Polish and Korean only to nano XLM-R.
LANGUAGES = ("fr", "de", "uk", "pl", "ko")
MAX_DOCUMENTS = {"adapt": 450, "train": 300, "validation": 120, "test": 240}
COLUMNS = {"adapt": ("id", "family", "lang", "text")}
PAIR_COLUMNS = ("id", "family", "lang", "text", "summary")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/debian"))
    parser.add_argument("--out", type=Path, default=Path("src/polygraft/nano/sample"))
    args = parser.parse_args()
    for language in LANGUAGES:
        for split, most in MAX_DOCUMENTS.items():
            lines = (args.data / language / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
            rows = [json.loads(line) for line in lines[:most]]
            columns = COLUMNS.get(split, PAIR_COLUMNS)
            table = pyarrow.table({name: [row[name] for row in rows] for name in columns})
            path = args.out / language / f"{split}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pyarrow.parquet.write_table(table, path, compression="zstd", compression_level=19)
            print(f"{path}: {len(rows)} documents, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
