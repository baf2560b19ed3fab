"""What is to be known of a single candidate, in sentences."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator, Sequence

from polygraft.ranking.candidates import Candidate
from polygraft.ranking.report import ALL, CandidateReport
from polygraft.ranking.score import Scored

CHANCE = 0.95  # of log2 of the vocabulary, bits per token: an untrained head needs about that
LOST_SHARE = 0.01


def notes_on(candidate: Candidate, report: CandidateReport, scored: Scored, texts: Sequence[str]) -> Iterator[str]:
    """What the numbers alone do not say, or say misleadingly."""
    if report.has_mlm_head is False:
        yield (
            "has no MLM head of its own, so there is no pseudo-perplexity: `polygraft adapt` would have to train a new "
            "head first."
        )
    if lost := _lost(candidate, texts):
        yield f"its tokenizer drops {lost} before it reads a text, so that its bits per character say nothing of them."
    figures = [one for one in report.figures if one.language != ALL]
    if unknown := [
        f"{one.language} {share:.0%}" for one in figures if (share := _unknown(one.known_letters)) > LOST_SHARE
    ]:
        yield f"letters unknown to its tokenizer: {', '.join(unknown)}. They are charged as if spelled out at random."
    if guessed := near_chance(report, scored):
        what = "head" if candidate.role == "source" else "model"
        yield f"is hardly better than chance, if at all ({guessed}): an untrained {what} is about there."
    if candidate.role == "target":
        lacking = [one.language for one in figures if one.code is None]
        unread = [f"{one.language} ({one.code})" for one in figures if one.code_read is False]
        if lacking:
            command = f"polygraft add-language --model {candidate.name} --language NEW=KNOWN"
            yield f"has no code for {', '.join(lacking)}; `{command}` gives it one."
        if unread:
            yield f"has a code for {', '.join(unread)}, but never read a text in it."


def near_chance(report: CandidateReport, scored: Scored) -> str:
    """The languages in which a token costs nearly as much as naming one of the vocabulary, with figures; or none."""
    guess = math.log2(report.vocabulary or 2)
    bits = {language: math.log2(perplexity) for language, perplexity in scored.perplexity.items()}
    near = [f"{language} {value:.1f}" for language, value in bits.items() if value >= CHANCE * guess]
    return f"{', '.join(near)} bits per token, where a guess costs {guess:.1f}" if near else ""


def _unknown(known_letters: dict[str, float]) -> float:
    return 1 - min(known_letters.values(), default=1.0)


def _lost(candidate: Candidate, texts: Sequence[str]) -> str:
    """What the normalization of a tokenizer drops of these texts: capitals, accents, both."""
    normalizer = candidate.tokenizer.backend_tokenizer.normalizer
    if normalizer is None:
        return ""
    before, after = "".join(texts), "".join(normalizer.normalize_str(text) for text in texts)
    lost = []
    for what, count in (("capitals", _capitals), ("accents", _marks)):
        number = count(before)
        if number and count(after) < number / 2:
            lost.append(what)
    return " and ".join(lost)


def _capitals(text: str) -> int:
    return sum(character.isupper() for character in text)


def _marks(text: str) -> int:
    return sum(unicodedata.combining(character) > 0 for character in unicodedata.normalize("NFD", text))
