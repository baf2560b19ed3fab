"""The user's text, as much of it as is looked at: a random sample per language, the same for every candidate."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from polygraft.data.languages import REMEDY
from polygraft.data.reading import filled_rows
from polygraft.errors import RecipeError
from polygraft.models.vocabulary import script_of
from polygraft.settings import TextData

COUNTED_DOCUMENTS, COUNTED_CHARACTERS = 1000, 2000  # per language: what is only tokenized
SCORED_CHARACTERS = 400  # of a document that models read: about 100 tokens
MAIN_SCRIPT_SHARE = 0.05
SEED = 1


@dataclass(frozen=True, kw_only=True)
class LanguageText:
    """One language's documents, white space taken as one space.

    Attributes:
        documents: in the files.
        counted: beginnings of up to 1,000 documents, for the tokenizers.
        scored: beginnings of those of them that models read.
        scripts: share of the letters, for each script that has a twentieth of them.
    """

    language: str
    documents: int
    counted: list[str]
    scored: list[str]
    scripts: dict[str, float]


def read_texts(sources: Sequence[TextData], max_samples: int) -> list[LanguageText]:
    """Read the files, draw the sample, and spread `max_samples` scored documents over the languages (2 each at least).

    Raises:
        DataError: as `iter_rows` does.
    """
    random_ = random.Random(SEED)
    seen: Counter[str] = Counter()
    kept: defaultdict[str, list[str]] = defaultdict(list)
    for data in sources:
        for row in filled_rows(data.train_file, data.columns, data.texts):
            text = " ".join(row[data.text_column].split())
            language = row[data.lang_column] if data.lang_column else data.lang
            if language is None:
                raise RecipeError(f"{data.train_file}: its language is not given. {REMEDY}")
            seen[language] += 1
            if len(kept[language]) < COUNTED_DOCUMENTS:
                kept[language].append(_beginning(text, COUNTED_CHARACTERS))
            elif (place := random_.randrange(seen[language])) < COUNTED_DOCUMENTS:  # every document is as likely
                kept[language][place] = _beginning(text, COUNTED_CHARACTERS)
    each = max(2, max_samples // len(kept))
    texts = []
    for language, counted in kept.items():
        scored = [_beginning(text, SCORED_CHARACTERS) for text in random_.sample(counted, min(each, len(counted)))]
        one = LanguageText(
            language=language,
            documents=seen[language],
            counted=counted,
            scored=scored,
            scripts=_main_scripts(counted),
        )
        texts.append(one)
    return texts


def _beginning(text: str, characters: int) -> str:
    """The first characters of a text, whole words where it has spaces."""
    if len(text) <= characters:
        return text
    head, space, _ = text[: characters + 1].rpartition(" ")
    return head if space and len(head) > characters // 2 else text[:characters]


def _main_scripts(texts: Sequence[str]) -> dict[str, float]:
    letters = count_scripts(texts)
    least = MAIN_SCRIPT_SHARE * letters.total()
    return {script: number / letters.total() for script, number in letters.most_common() if number >= least}


def count_scripts(texts: Sequence[str]) -> Counter[str]:
    """Count the letters of each script."""
    scripts: Counter[str] = Counter()
    for character, number in Counter("".join(texts)).items():
        if character.isalpha():
            scripts[script_of(character)] += number
    return scripts
