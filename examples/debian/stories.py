"""Text of another kind than package descriptions: the stories of the game Battle for Wesnoth, as translated by people.

For studies in which the user's text is news to the source. Fetches Debian's packages of the game by apt, and joins the
messages of its translations, in their order, to passages of 400 characters or more.

    python examples/debian/stories.py --language pl --out data/stories
"""

from __future__ import annotations

import argparse
import gettext
import json
import random
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

VERSION = "1.16"
LEFT_OUT = re.compile("server|music|core|tools")  # packages without translations
MIN_MESSAGE_CHARS, MIN_PASSAGE_CHARS, MAX_PASSAGE_CHARS = 60, 400, 1500
CODE = re.compile(r"[=|{}\\]|http")  # messages with markup of the game's own are no prose


def fetch(folder: Path) -> None:
    """Download and unpack the packages into a folder."""
    search = ["apt-cache", "search", "--names-only", f"^wesnoth-{VERSION}-"]
    found = subprocess.run(search, capture_output=True, text=True, check=True).stdout
    names = [line.split()[0] for line in found.splitlines() if not LEFT_OUT.search(line.split()[0])]
    subprocess.run(["apt-get", "download", "-qq", *names], cwd=folder, check=True)
    for package in sorted(folder.glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", package, folder / "files"], check=True)


def messages(folder: Path, language: str) -> Iterator[list[str]]:
    """Yield the prose of each file of translations, no message twice."""
    seen: set[str] = set()
    for path in sorted(folder.glob(f"files/usr/share/games/wesnoth/{VERSION}/locale/{language}/LC_MESSAGES/*.mo")):
        with path.open("rb") as file:
            catalog = gettext.GNUTranslations(file)._catalog  # type: ignore[attr-defined]
        found = []
        for original, translated in catalog.items():
            if not original or not isinstance(translated, str) or translated == original:
                continue
            text = re.sub(r"\s+", " ", re.sub("<[^>]*>", "", translated)).strip()
            if len(text) >= MIN_MESSAGE_CHARS and text not in seen and not CODE.search(text):
                seen.add(text)
                found.append(text)
        yield found


def passages(files: Iterator[list[str]]) -> list[str]:
    """Join consecutive messages of a file until they are long enough; shuffled."""
    made = []
    for found in files:
        passage = ""
        for text in found:
            passage = f"{passage} {text}".strip()
            if len(passage) >= MIN_PASSAGE_CHARS:
                made.append(passage[:MAX_PASSAGE_CHARS])
                passage = ""
    random.Random(1).shuffle(made)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--language", default="pl", help="as the game names it: pl, uk, fr, …")
    parser.add_argument("--out", type=Path, default=Path("data/stories"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        fetch(Path(folder))
        made = passages(messages(Path(folder), args.language))
    args.out.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"text": passage}, ensure_ascii=False) + "\n" for passage in made]
    (args.out / f"{args.language}.jsonl").write_text("".join(lines), encoding="utf-8")
    print(f"{args.out / args.language}.jsonl: {len(made):,} passages, {sum(map(len, made)):,} characters")


if __name__ == "__main__":
    main()
