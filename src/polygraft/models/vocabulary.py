"""Which row of the target's embedding matrix means the same token as which row of the source's.

XLM-R and the mBARTs share their pieces, but not their tails: the id of XLM-R's ``<mask>`` is mBART's ``ar_AR``. So rows
are matched by token string, and every row of either matrix gets exactly one class, also the padding rows that a matrix
has beyond its tokenizer.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from polygraft.data.languages import language_codes
from polygraft.errors import TransferError

MIN_SHARED = 0.5
MIN_MARKED = 0.05
BATCH_TEXTS = 1000
SAMPLE_TEXTS = [  # what the two tokenizers are compared on beside the user's text
    "This package reads and writes compressed files.",
    "Ce paquet lit et écrit des fichiers compressés.",
    "Dieses Paket liest und schreibt 3,5 GB große Dateien.",
    "Цей пакунок читає та записує стиснені файли.",
    "هذه الحزمة تقرأ الملفات المضغوطة.",
    "यह पैकेज संपीड़ित फ़ाइलें पढ़ता है।",
    "このパッケージは圧縮ファイルを読み書きします。",
    "이 패키지는 압축 파일을 읽고 씁니다.",
]


@dataclass(frozen=True)
class VocabularyMap:
    """The classes of target rows, each an int64 array of ids, ascending; they partition ``range(target_rows)``.

    Attributes:
        same: token at the same id in both vocabularies.
        moved: token at another id in the source (``<mask>``).
        pad: ``<pad>``, which has no meaning to map.
        language_code: ``en_XX`` and the like, whether the source has them or not.
        only_in_target: token that the source lacks.
        unused: rows beyond the target's tokenizer, and holes in it.
        only_in_source: **source** ids without a row in the target.
        source_of: for every target row its source row, -1 where there is none; set for `same` and `moved` only.
        special: those of `same`, `moved` and `only_in_target` that are special tokens.
    """

    same: np.ndarray
    moved: np.ndarray
    pad: np.ndarray
    language_code: np.ndarray
    only_in_target: np.ndarray
    unused: np.ndarray
    only_in_source: np.ndarray
    source_of: np.ndarray
    special: np.ndarray

    @property
    def target_rows(self) -> int:
        return len(self.source_of)

    @property
    def ordinary(self) -> np.ndarray:
        """The rows of text tokens: all but special tokens, ``<pad>``, language codes and unused rows."""
        return np.setdiff1d(np.concatenate([self.same, self.moved, self.only_in_target]), self.special)

    @property
    def shared_share(self) -> float:
        """Share of the target's tokens, language codes and ``<pad>`` aside, that the source has too."""
        mapped = len(self.same) + len(self.moved)
        return mapped / max(1, mapped + len(self.only_in_target))

    def sizes(self) -> dict[str, int]:
        """Rows per class."""
        names = ("same", "moved", "pad", "language_code", "only_in_target", "unused", "only_in_source")
        return {name: len(getattr(self, name)) for name in names}


def map_vocabularies(
    target: Any, target_rows: int, source: Any | None = None, source_rows: int | None = None
) -> VocabularyMap:
    """Match the rows of two embedding matrices by the token strings of their tokenizers.

    Args:
        target, source: Hugging Face tokenizers; without a source all ordinary tokens are `only_in_target`.
        target_rows, source_rows: rows of the matrices, at least as many as the tokenizer's ids need.

    Raises:
        TransferError: a matrix has fewer rows than its tokenizer has ids.
    """
    tokens = tokens_by_id(target, target_rows, "target")
    source_ids: Mapping[str, int] = source.get_vocab() if source is not None else {}
    if source is not None:
        tokens_by_id(source, source_rows if source_rows is not None else len(source), "source")
    codes = {target.convert_tokens_to_ids(code) for code in language_codes(target)}
    classes: dict[str, list[int]] = {
        name: [] for name in ("same", "moved", "pad", "language_code", "only_in_target", "unused")
    }
    source_of = np.full(target_rows, -1, dtype=np.int64)
    for row, token in enumerate(tokens):
        name = _class_of(row, token, target.pad_token_id, codes, source_ids)
        classes[name].append(row)
        if token is not None and name in ("same", "moved"):
            source_of[row] = source_ids[token]
    used = source_of[source_of >= 0]
    kept_back = set(classes["pad"]) | set(classes["language_code"])
    specials = sorted(row for row in set(target.all_special_ids) - kept_back if row < target_rows)
    return VocabularyMap(
        **{name: np.array(ids, dtype=np.int64) for name, ids in classes.items()},
        only_in_source=np.setdiff1d(np.array(sorted(source_ids.values()), dtype=np.int64), used),
        source_of=source_of,
        special=np.array(specials, dtype=np.int64),
    )


def _class_of(row: int, token: str | None, pad: int | None, codes: set[int], source_ids: Mapping[str, int]) -> str:
    if token is None:
        return "unused"
    if row == pad:
        return "pad"
    if row in codes:
        return "language_code"
    if token not in source_ids:
        return "only_in_target"
    return "same" if source_ids[token] == row else "moved"


def tokens_by_id(tokenizer: Any, rows: int, side: str) -> list[str | None]:
    """Return the token string of each row of a matrix, None for rows beyond the tokenizer.

    Raises:
        TransferError: the matrix has fewer rows than the tokenizer has ids; `side` names it in the message.
    """
    tokens: list[str | None] = [None] * rows
    for token, row in tokenizer.get_vocab().items():
        if row >= rows:
            raise TransferError(
                f"the {side}'s tokenizer has id {row} ('{token}'), but its embedding matrix only {rows} rows. "
                "Use the tokenizer that belongs to the checkpoint, or resize the model's embeddings to it."
            )
        tokens[row] = token
    return tokens


def token_counts(tokenizer: Any, texts: Iterable[str], rows: int | None = None) -> np.ndarray:
    """Count each token id in `texts`, special tokens not added.

    Returns:
        int64 array of `rows` counts (default: one per id of the tokenizer).
    """
    counts = np.zeros(len(tokenizer) if rows is None else rows, dtype=np.int64)
    remaining = iter(texts)
    while batch := list(islice(remaining, BATCH_TEXTS)):
        documents = tokenizer(batch, add_special_tokens=False, verbose=False)["input_ids"]
        ids = np.fromiter((i for document in documents for i in document), dtype=np.int64)
        counts += np.bincount(ids, minlength=len(counts))
    return counts


def alike_share(source: Any, target: Any, texts: Sequence[str]) -> float:
    """Return the share of `texts` that both tokenizers split into the same token strings."""
    if not texts:
        raise TransferError("no sample text to compare the two tokenizers on: give at least one non-empty text.")
    return sum(source.tokenize(text) == target.tokenize(text) for text in texts) / len(texts)


def marks_insides(tokenizer: Any) -> bool:
    """Whether a vocabulary marks pieces inside words (WordPiece: ``##ing``) and not those that begin one (``▁the``).

    Between the two kinds equal strings are different tokens: ``the`` begins a word in one and goes on in the other.
    """
    tokens = tokenizer.get_vocab()
    return sum(token.startswith("##") for token in tokens) > MIN_MARKED * len(tokens)


def check_vocabularies(vocabulary: VocabularyMap, alike: float) -> list[str]:
    """Refuse a pair of vocabularies with too little in common, and return warnings about one that nearly agrees.

    Rows that match by token can be transferred also where the two tokenizers split texts differently, as they do when
    the source has been given further tokens: then just the shared ones are.

    Raises:
        TransferError: fewer than half of the target's tokens are in the source.
    """
    shares = [
        (vocabulary.shared_share, "of the target's tokens are in the source's vocabulary; the others keep their rows"),
        (alike, "of the sample texts are split into the same tokens by both tokenizers; rows are matched by token"),
    ]
    if vocabulary.shared_share < MIN_SHARED:
        raise TransferError(
            f"only {vocabulary.shared_share:.1%} of the target's tokens are in the source's vocabulary (at least "
            f"{MIN_SHARED:.0%} is needed), so rows cannot be matched by token. Transfer between models of one "
            "vocabulary family (XLM-R and mBART), or use mode: recentre."
        )
    return [f"only {share:.1%} {what}" for share, what in shares if share < 0.99]


def script_of(token: str) -> str:
    """Name the Unicode script of a token's first letter: LATIN, CYRILLIC, CJK, …; "none" without letters."""
    letter = next((character for character in token if character.isalpha()), None)
    return unicodedata.name(letter, "unnamed").split()[0].split("-")[0] if letter else "none"
