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
    source_ids: Mapping[str, int] = {} if source is None else source.get_vocab()
    _assert_rows(source_ids, len(source_ids) if source_rows is None else source_rows, "source")
    row = np.arange(target_rows)
    unused = np.fromiter((token is None for token in tokens), dtype=bool, count=target_rows)
    found = np.fromiter((source_ids.get(token or "", -1) for token in tokens), dtype=np.int64, count=target_rows)
    pad = (row == target.pad_token_id) & ~unused
    code = np.isin(row, target.convert_tokens_to_ids(language_codes(target))) & ~unused & ~pad
    ordinary = ~(unused | pad | code)
    same, moved = ordinary & (found == row), ordinary & (found >= 0) & (found != row)
    source_of = np.where(same | moved, found, -1)
    special = np.isin(row, target.all_special_ids) & ~pad & ~code
    return VocabularyMap(
        same=row[same],
        moved=row[moved],
        pad=row[pad],
        language_code=row[code],
        only_in_target=row[ordinary & (found < 0)],
        unused=row[unused],
        only_in_source=np.setdiff1d(np.fromiter(source_ids.values(), dtype=np.int64), source_of),
        source_of=source_of,
        special=row[special],
    )


def tokens_by_id(tokenizer: Any, rows: int, side: str) -> list[str | None]:
    """Return the token string of each row of a matrix, None for rows beyond the tokenizer.

    Raises:
        TransferError: the matrix has fewer rows than the tokenizer has ids; `side` names it in the message.
    """
    ids = tokenizer.get_vocab()
    _assert_rows(ids, rows, side)
    tokens: list[str | None] = [None] * rows
    for token, row in ids.items():
        tokens[row] = token
    return tokens


def _assert_rows(ids: Mapping[str, int], rows: int, side: str) -> None:
    token = max(ids, key=ids.__getitem__, default=None)
    if token is not None and ids[token] >= rows:
        raise TransferError(
            f"the {side}'s tokenizer has id {ids[token]} ('{token}'), but its embedding matrix only {rows} rows. "
            "Use the tokenizer that belongs to the checkpoint, or resize the model's embeddings to it."
        )


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
