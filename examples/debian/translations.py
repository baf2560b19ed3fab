"""Cut translation pairs out of the full Debian corpus: the one-line synopses of a package in two languages.

A row is one direction of a pair: `source` in `source_lang`, `target` in `target_lang`. Splits are those of `sample.py`,
by families of packages: what is tested on was in no other split of any language. A text that was there already, in its
direction, is left out, so that a synopsis that many packages share counts once, and in the first split that has it.

    python examples/debian/translations.py --data data/debian --out src/polygraft/nano/sample/translation
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sample import read, write

# Both nano models have read German and French; Ukrainian only nano XLM-R.
DIRECTIONS = (("de", "fr"), ("fr", "de"), ("uk", "de"), ("de", "uk"))
MAX_PAIRS = {"train": 400, "validation": 60, "test": 150}  # of each direction
COLUMNS = ("id", "family", "source_lang", "target_lang", "source", "target")


def by_original(path: Path) -> dict[str, dict[str, str]]:
    """The rows of a file by what they are translations of, in the file's order."""
    return {row["id"].split("-", 1)[1]: row for row in read(path)}


def pairs(data: Path, split: str, source: str, target: str) -> list[dict[str, str]]:
    """One direction's rows of a split."""
    sources, targets = (by_original(data / language / f"{split}.jsonl") for language in (source, target))
    return [
        {
            "id": f"{source}-{target}-{original}",
            "family": row["family"],
            "source_lang": source,
            "target_lang": target,
            "source": row["summary"],
            "target": targets[original]["summary"],
        }
        for original, row in sources.items()
        if original in targets
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/debian"))
    parser.add_argument("--out", type=Path, default=Path("src/polygraft/nano/sample/translation"))
    args = parser.parse_args()
    seen: set[tuple[str, str, str]] = set()
    for split, most in MAX_PAIRS.items():
        rows = []
        for source, target in DIRECTIONS:
            new = []
            for row in pairs(args.data, split, source, target):
                texts = [(source, target, row[side].casefold()) for side in ("source", "target")]
                if not seen & set(texts):
                    seen.update(texts)
                    new.append(row)
            rows += new[:most]
        write(args.out / f"{split}.parquet", rows, COLUMNS)


if __name__ == "__main__":
    main()
