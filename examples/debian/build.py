"""Build the Debian package-description corpus: long text, one-line synopsis, many languages.

Debian's package descriptions are written and translated by people. The long text with its one-line synopsis is a
summarization pair; the same ``Description-md5`` in two languages is a translation pair. This script fetches apt's
``Translation-*`` index files into a private folder, joins them, and writes ``<out>/<language>/<split>.jsonl`` with the
fields ``id``, ``family``, ``lang``, ``text`` and ``summary``.

    python examples/debian/build.py --out data/debian                      # the mirror of apt's own configuration
    python examples/debian/build.py --out data/debian --mirror URL         # or one that you name
    python examples/debian/build.py --out data/debian --mirror URL --newer trixie sid      # with what came after

Packages that share a paragraph form a family; a family falls into exactly one split, the same in every language, so
nothing that is in a test set was seen, in any language, before.

What only newer releases describe joins `pretrain` where its kin is there and nowhere else, is left out where its kin is
in another split, and is `fresh` where it has no kin, by paragraph or by package name. `fresh` also has a tenth of the
old families, which earlier nano models were pretrained on: it is test data that no figure was ever measured on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import lz4.frame

# apt's name of a language → the two-letter code that polygraft's recipes use
LANGUAGES = {
    "en": "en", "it": "it", "da": "da", "fr": "fr", "de": "de", "pt_BR": "pt", "pt": "pt", "ja": "ja",
    "uk": "uk", "sk": "sk", "ko": "ko", "pl": "pl", "ru": "ru", "es": "es", "cs": "cs", "zh_CN": "zh", "fi": "fi",
}  # fmt: skip
SPACELESS = {"ja", "zh"}  # their wrapped lines are joined without a space
# Upper ends of the splits on the unit interval that families are hashed onto. "pretrain" is what the nano models
# read; "adapt" to "test" are the user's side of the story and are never shown to a model before its time.
SPLITS = {"fresh": 0.10, "pretrain": 0.70, "adapt": 0.82, "train": 0.90, "validation": 0.94, "test": 1.00}
MIN_PARAGRAPH_CHARS = 60  # shorter paragraphs ("This package contains the library.") say nothing about kinship
MIN_TEXT_CHARS = 60
LARGEST_HELD_OUT_FAMILY = 50  # 3,000 descriptions that share their boilerplate would be most of a test set


def fetch(lists: Path, mirror: str | None, suite: str) -> None:
    """Have apt download the translation indices of every language into `lists`, leaving the system's own untouched."""
    lists.mkdir(parents=True, exist_ok=True)
    (lists / "partial").mkdir(exist_ok=True)
    command = ["apt-get", "update", "-o", f"Dir::State::lists={lists.resolve()}", "-o", "APT::Sandbox::User="]
    command += ["-o", f"Acquire::Languages={','.join(LANGUAGES)}"]
    if mirror:
        sources = lists / "mirror.list"
        sources.write_text(f"deb {mirror} {suite} main\n")
        command += ["-o", f"Dir::Etc::sourcelist={sources.resolve()}", "-o", "Dir::Etc::sourceparts=-"]
    subprocess.run(command, check=True)


def read_stanzas(path: Path, apt_language: str) -> Iterator[tuple[str, str, str, str]]:
    """Yield (md5 of the English original, package, synopsis, long text) of each stanza of one index file."""
    with lz4.frame.open(path, "rt", encoding="utf-8") as file:
        for stanza in file.read().split("\n\n"):
            if not stanza.strip():
                continue
            head, _, body = stanza.partition(f"\nDescription-{apt_language}: ")
            md5 = re.search(r"^Description-md5: (\w+)", head, re.M)
            package = re.search(r"^Package: (\S+)", head, re.M)
            synopsis, _, long_text = body.partition("\n")
            if md5 and package and synopsis.strip() and long_text.strip():
                yield md5[1], package[1], " ".join(synopsis.split()), long_text


def join_lines(long_text: str, language: str) -> str:
    """Undo Debian's line wrapping: paragraphs end at " ." lines, and lines with two leading spaces stand alone."""
    glue = "" if language in SPACELESS else " "
    paragraphs: list[list[str]] = [[]]
    for line in long_text.splitlines():
        if line.strip() == ".":
            paragraphs.append([])
        elif line.startswith("  ") or re.match(r"^ [*\-] ", line):
            paragraphs.append([line.strip()])
        else:
            paragraphs[-1].append(line.strip())
    return "\n".join(glue.join(p) for p in paragraphs if p)


def families(english: dict[str, str], kin: Iterable[set[str]] = ()) -> dict[str, str]:
    """Map each md5 to the smallest md5 among all texts that it shares a paragraph with, directly or by a chain.

    `kin` are sets of md5s that belong together whatever their texts.
    """
    parent = {md5: md5 for md5 in english}

    def find(node: str) -> str:
        while parent[node] != node:
            parent[node] = node = parent[parent[node]]
        return node

    first_with: dict[str, str] = {}
    for md5 in sorted(english):
        for paragraph in english[md5].split("\n"):
            key = re.sub(r"[\W\d_]+", " ", paragraph.lower()).strip()
            if len(key) < MIN_PARAGRAPH_CHARS:
                continue
            # The start of a paragraph is enough: variants of one text differ towards its end.
            a, b = find(first_with.setdefault(key[:MIN_PARAGRAPH_CHARS], md5)), find(md5)
            parent[max(a, b)] = min(a, b)
    for together in kin:
        roots = {find(md5) for md5 in together}
        parent |= dict.fromkeys(roots, min(roots))
    return {md5: find(md5) for md5 in english}


def split_of(family: str, size: int) -> str:
    if size > LARGEST_HELD_OUT_FAMILY:
        return "pretrain"
    place = int(hashlib.sha256(family.encode()).hexdigest()[:12], 16) / 16**12
    return next(name for name, end in SPLITS.items() if place < end)


def find_files(folders: list[Path], apt_language: str) -> list[Path]:
    """Return the index files of a language, those of the first folder first."""
    name = f"*Translation-{apt_language.replace('_', '%5f')}.lz4"
    return [path for folder in folders for path in sorted(folder.glob(name))]


def read_english(folders: list[Path]) -> tuple[dict[str, str], dict[str, set[str]]]:
    """Return the English texts by md5, and the md5s of each package."""
    english, by_package = {}, defaultdict(set)
    for path in find_files(folders, "en"):
        for md5, package, _, text in read_stanzas(path, "en"):
            english.setdefault(md5, join_lines(text, "en"))
            by_package[package].add(md5)
    return english, by_package


def assign(lists: Path, newer: list[Path]) -> dict[str, tuple[str, str]]:
    """Map each English md5 to its family and split; newer releases change neither for what `lists` has."""
    base, _ = read_english([lists])
    if not base:
        sys.exit(f"no Translation-en.lz4 in {lists}: is it a folder of apt's lists? Leave --lists out to fetch them.")
    family_of = families(base)
    size_of = Counter(family_of.values())
    placed = {md5: (family, split_of(family, size_of[family])) for md5, family in family_of.items()}
    everything, by_package = read_english([lists, *newer])
    # For what is new, texts of one package are kin, too, whatever their words.
    kin = families(everything, by_package.values())
    members = Counter(kin.values())
    splits: dict[str, set[str]] = defaultdict(set)
    for md5, (_, split) in placed.items():
        splits[kin[md5]].add(split)
    for md5 in everything.keys() - placed.keys():
        family = kin[md5]
        if not splits[family]:
            placed[md5] = family, "fresh" if members[family] <= LARGEST_HELD_OUT_FAMILY else "pretrain"
        elif splits[family] == {"pretrain"}:
            placed[md5] = family, "pretrain"
    return placed


def build(lists: Path, newer: list[Path], out: Path) -> dict[str, Counter[str]]:
    """Write every language's splits below `out`; return the number of documents by language and split."""
    placed, (english, _) = assign(lists, newer), read_english([lists, *newer])
    rows: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    seen: set[tuple[str, str]] = set()
    for apt_language, language in LANGUAGES.items():
        for path in find_files([lists, *newer], apt_language):
            for md5, package, summary, long_text in read_stanzas(path, apt_language):
                text = join_lines(long_text, language)
                untranslated = language != "en" and text == english.get(md5)
                if md5 not in placed or untranslated or len(text) < MIN_TEXT_CHARS or (language, text) in seen:
                    continue
                seen.add((language, text))
                family, split = placed[md5]
                row = {"id": f"{language}-{md5[:12]}", "family": family[:12], "package": package, "lang": language}
                rows[language, split].append(row | {"text": text, "summary": summary})
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for (language, split), documents in sorted(rows.items()):
        documents.sort(key=lambda row: hashlib.sha256(row["id"].encode()).digest())  # a shuffle that never changes
        path = out / language / f"{split}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in documents), encoding="utf-8")
        os.replace(partial, path)
        counts[language][split] = len(documents)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("data/debian"))
    parser.add_argument("--lists", type=Path, help="a folder that already holds apt's Translation-*.lz4 files")
    parser.add_argument("--mirror", help="a Debian mirror; without it, what apt is configured with")
    parser.add_argument("--suite", default="bookworm", help="the release, with --mirror (default: %(default)s)")
    parser.add_argument("--newer", nargs="*", default=[], help="later releases, with --mirror")
    args = parser.parse_args()
    if args.newer and not args.mirror:
        parser.error("--newer needs --mirror: apt's own configuration has one release")
    lists, newer = args.lists or args.out / "lists", [args.out / f"lists-{suite}" for suite in args.newer]
    if args.lists is None:
        fetch(lists, args.mirror, args.suite)
    for folder, suite in zip(newer, args.newer, strict=True):
        fetch(folder, args.mirror, suite)
    for language, by_split in sorted(build(lists, newer, args.out).items()):
        print(language, "  ".join(f"{split} {by_split[split]}" for split in SPLITS))


if __name__ == "__main__":
    main()
