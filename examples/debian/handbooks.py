"""More text per language than package descriptions have: the help of LibreOffice and of the GNOME desktop.

Fetches packages of Debian by apt and writes `<out>/<language>/help-<split>.jsonl` with the fields of `build.py`: the
text is a page's paragraphs, the summary its title. A page falls into one split, in every language. A paragraph that
several pages share is kept on the first, and one that is not translated on none, so that no split shows another's text.

    python examples/debian/handbooks.py --out data/debian
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from html import unescape
from pathlib import Path

from build import SPLITS, split_of

# polygraft's name of a language → LibreOffice's and GNOME's; neither's help is there in all
LANGUAGES: dict[str, tuple[str | None, str | None]] = {
    "en": ("en-us", "C"), "it": ("it", "it"), "da": ("da", "da"), "fr": ("fr", "fr"), "de": ("de", "de"),
    "pt": ("pt-br", "pt_BR"), "ja": ("ja", "ja"), "uk": (None, "uk"), "sk": (None, None), "ko": ("ko", "ko"),
    "pl": ("pl", "pl"), "ru": ("ru", "ru"), "es": ("es", "es"), "cs": ("cs", "cs"), "zh": ("zh-cn", "zh_CN"),
    "fi": ("fi", "fi"), "el": ("el", "el"),
}  # fmt: skip
MIN_PARAGRAPH_BYTES, MIN_TEXT_BYTES = 40, 120  # of UTF-8: a Chinese character says as much as three letters
LIBREOFFICE = re.compile(r'<(h1|p) id="[^"]*"(?: class="(?:paragraph|note|tip|warning)")?[^>]*>(.*?)</\1>', re.S)
GNOME = re.compile(r"<(title|p)(?:\s[^>]*)?>(.*?)</\1>", re.S)
GNOME_HEAD = re.compile(r"<info>.*?</info>", re.S)  # authors and licence

Page = tuple[str, list[str]]


def fetch(folder: Path) -> None:
    """Download and unpack the packages into a folder."""
    names = ["gnome-user-docs", *(f"libreoffice-help-{office}" for office, _ in LANGUAGES.values() if office)]
    subprocess.run(["apt-get", "download", "-qq", *names], cwd=folder, check=True)
    for package in sorted(folder.glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", package, folder / "files"], check=True)


def blocks(markup: str, pattern: re.Pattern[str]) -> Iterator[tuple[bool, str]]:
    """Yield the title (True) and the paragraphs of a page, as plain text."""
    for tag, content in pattern.findall(markup):
        text = " ".join(unescape(re.sub(r"<[^>]*>", "", content)).split())
        if text:
            yield tag in ("h1", "title"), text


def pages(folder: Path, language: str) -> Iterator[tuple[str, Page]]:
    """Yield name, title and paragraphs of each page, in the order of their names."""
    office, gnome = LANGUAGES[language]
    share = folder / "files" / "usr" / "share"
    region = office and re.sub("-..$", lambda match: match[0].upper(), office)  # zh-cn is in the folder zh-CN
    for root, pattern, suffix in (
        (region and share / "libreoffice" / "help" / region / "text", LIBREOFFICE, "html"),
        (gnome and share / "help" / gnome, GNOME, "page"),
    ):
        for path in sorted(Path(root).rglob(f"*.{suffix}")) if root else ():
            found = list(blocks(GNOME_HEAD.sub("", path.read_text(encoding="utf-8")), pattern))
            title = next((text for is_title, text in found if is_title), "")
            yield str(path.relative_to(root)), (title, [text for is_title, text in found if not is_title])


def documents(folder: Path, language: str, english: set[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield split and row of each page that has text of its own."""
    seen = set(english) if language != "en" else set()
    for name, (title, paragraphs) in pages(folder, language):
        own = [p for p in dict.fromkeys(paragraphs) if p not in seen and len(p.encode()) >= MIN_PARAGRAPH_BYTES]
        seen.update(own)
        text, family = "\n".join(own), hashlib.sha256(name.encode()).hexdigest()[:12]
        if title and (title not in english or language == "en") and len(text.encode()) >= MIN_TEXT_BYTES:
            row = {"id": f"{language}-help-{family}", "family": family, "package": name, "lang": language}
            yield split_of(family, 1), row | {"text": text, "summary": title}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("data/debian"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        fetch(folder)
        english = {text for _, (title, paragraphs) in pages(folder, "en") for text in (title, *paragraphs)}
        for language in LANGUAGES:
            rows, characters = defaultdict(list), Counter[str]()
            for split, row in documents(folder, language, english):
                rows[split].append(row)
                characters[split] += len(row["text"])
            for split, found in rows.items():
                found.sort(key=lambda row: hashlib.sha256(row["id"].encode()).digest())
                path = args.out / language / f"help-{split}.jsonl"
                path.parent.mkdir(parents=True, exist_ok=True)
                lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in found]
                path.write_text("".join(lines), encoding="utf-8")
            counts = "  ".join(f"{split} {len(rows[split])} ({characters[split]:,})" for split in SPLITS)
            print(f"{language} pages (characters): {counts}")


if __name__ == "__main__":
    main()
