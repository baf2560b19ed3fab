"""Scores of generated text, each with a bootstrap interval over documents and a signature of how it was computed.

Suffixes: D documents, R bootstrap resamples, K sufficient statistics per document. A corpus score is a function of
the statistics summed over documents, so that all R resamples are one matrix product and no text is read twice.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

_CHUNK_ENTRIES = 4_000_000  # resampling weights held at a time: 32 MB

# Scripts written without spaces between words; Hangul and Latin are absent because they do have them.
_UNSPACED_SCRIPTS = ("CJK", "HIRAGANA", "KATAKANA", "HALFWIDTH KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are drawn: percentile bootstrap over documents (Efron 1979; Koehn 2004)."""

    resamples: int = 1000
    confidence: float = 0.95
    seed: int = 12345  # sacreBLEU's default

    @property
    def signature(self) -> str:
        return f"bs:{self.resamples}|seed:{self.seed}"


@dataclass(frozen=True)
class Score:
    """One corpus score with its bootstrap interval; `signature` says which version and settings made it."""

    score: float
    low: float
    high: float
    signature: str

    def as_dict(self) -> dict[str, float]:
        """The numbers alone, as they stand in scores.json."""
        return {"score": self.score, "low": self.low, "high": self.high}


# ---------------------------------------------------------------- words in any script


@functools.cache
def _kind(char: str) -> str:
    """Class of a character: "word", "single" (a token by itself), "mark", "joiner", "none"."""
    if char in "\u200c\u200d":  # zero-width (non-)joiners shape letters inside a word, they do not end it
        return "joiner"
    category = unicodedata.category(char)[0]
    if category == "M":
        return "mark"
    if category not in "LN":
        return "none"
    return "single" if unicodedata.name(char, "").startswith(_UNSPACED_SCRIPTS) else "word"


def is_unspaced(char: str) -> bool:
    """Whether a character is of a script that has no spaces between words."""
    return _kind(char) == "single"


class UnicodeTokenizer:
    """Words of any script for ROUGE: NFKC, case-folded runs of letters, marks and digits.

    Characters of scripts without spaces (Han, kana, Thai, Lao, Khmer, Burmese) are tokens of their own, together with
    the marks on them. rouge-score's own tokenizer keeps [a-z0-9] only and scores identical Nepali text 0; `\\w` of
    Python's `re` excludes combining marks and cuts Devanagari words to pieces.
    """

    signature = "case:fold|norm:nfkc|tok:unicode-words-unspaced-chars"

    def tokenize(self, text: str) -> list[str]:
        """Tokens of `text`, in order; punctuation and symbols are dropped."""
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
        tokens: list[str] = []
        previous = "none"
        for char in text:
            kind = _kind(char)
            if kind == "joiner":
                continue
            if kind == "mark":
                if previous != "none":  # a mark belongs to whatever it stands on; alone it is no word
                    tokens[-1] += char
                continue
            if kind == "single" or (kind == "word" and previous != "word"):
                tokens.append(char)
            elif kind == "word":
                tokens[-1] += char
            previous = kind
        return tokens


# ---------------------------------------------------------------- bootstrap


def resampled_sums(statistics_DK: np.ndarray, bootstrap: Bootstrap) -> np.ndarray:
    """Statistics summed over `resamples` draws of D documents with replacement: float64 [R, K].

    Equal seeds and equal D give equal draws, so that scores of two systems on the same documents are paired.
    """
    documents = len(statistics_DK)
    rng = np.random.default_rng(bootstrap.seed)
    chunk = max(1, _CHUNK_ENTRIES // documents)
    sums = []
    for start in range(0, bootstrap.resamples, chunk):
        size = min(chunk, bootstrap.resamples - start)
        counts_RD = rng.multinomial(documents, np.full(documents, 1.0 / documents), size=size).astype(np.float64)
        sums.append(counts_RD @ statistics_DK)
    return np.concatenate(sums)


def ratio_of_sums(sums_2: np.ndarray) -> np.ndarray:
    """First statistic over second, [..., 2] to [...]; 0 where the second is 0."""
    top, bottom = sums_2[..., 0], sums_2[..., 1]
    return np.divide(top, bottom, out=np.zeros(np.shape(top)), where=np.asarray(bottom != 0))


def _scored(
    statistics_DK: np.ndarray, from_sums: Callable[[np.ndarray], np.ndarray], signature: str, bootstrap: Bootstrap
) -> Score:
    tail = (1.0 - bootstrap.confidence) / 2
    low, high = np.quantile(from_sums(resampled_sums(statistics_DK, bootstrap)), [tail, 1.0 - tail])
    return Score(float(from_sums(statistics_DK.sum(axis=0))), float(low), float(high), signature)


def _check_parallel(**columns: Sequence[object]) -> None:
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise ValueError(f"scores need parallel, non-empty columns; got lengths {lengths}")


def _mean_statistics(values_D: np.ndarray) -> np.ndarray:
    return np.stack([values_D, np.ones_like(values_D)], axis=1)


# ---------------------------------------------------------------- chrF++


def _chrf_metric() -> Any:
    from sacrebleu.metrics import CHRF

    return CHRF(word_order=2)


def chrf_statistics(predictions: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """sacreBLEU's counts per document, float64 [D, 24]: (output, reference, matching) for each of 8 n-gram orders."""
    _check_parallel(predictions=predictions, references=references)
    metric = _chrf_metric()
    metric._force = True  # silences a warning about " ." endings that is meant for tokenized BLEU input
    return np.asarray(metric._extract_corpus_statistics(list(predictions), [list(references)]), dtype=np.float64)


def chrf_from_sums(sums_K: np.ndarray) -> np.ndarray:
    """chrF++ in [0, 100] from summed statistics [..., 24] (Popović 2017; sacrebleu.CHRF._compute_f_score, vectorised).

    As sacreBLEU does without eps smoothing: precision and recall are averaged over the orders that both sides have.
    """
    output, reference, match = (sums_K[..., i::3] for i in range(3))
    present = (output > 0) & (reference > 0)
    orders = np.maximum(present.sum(axis=-1), 1)
    precision = np.divide(match, output, out=np.zeros_like(match), where=present).sum(axis=-1) / orders
    recall = np.divide(match, reference, out=np.zeros_like(match), where=present).sum(axis=-1) / orders
    factor = _chrf_metric().beta ** 2
    bottom = factor * precision + recall
    return 100.0 * np.divide(
        (1 + factor) * precision * recall, bottom, out=np.zeros(np.shape(bottom)), where=np.asarray(bottom > 0)
    )


def chrf_signature(bootstrap: Bootstrap) -> str:
    """sacreBLEU's own signature of chrF++ with one reference, with the bootstrap's size and seed."""
    metric = _chrf_metric()
    metric.num_refs, metric.n_bootstrap, metric.seed = 1, bootstrap.resamples, str(bootstrap.seed)
    return metric.get_signature().format()


def chrf_pp(predictions: Sequence[str], references: Sequence[str], bootstrap: Bootstrap = Bootstrap()) -> Score:
    """Corpus chrF++ in [0, 100], equal to `sacrebleu.CHRF(word_order=2).corpus_score`."""
    statistics_DK = chrf_statistics(predictions, references)
    return _scored(statistics_DK, chrf_from_sums, chrf_signature(bootstrap), bootstrap)


# ---------------------------------------------------------------- ROUGE


def rouge_per_document(predictions: Sequence[str], references: Sequence[str]) -> dict[str, np.ndarray]:
    """F-measures x 100 of rouge1, rouge2 and rougeL (Lin 2004) per document: float64 [D] each."""
    from rouge_score.rouge_scorer import RougeScorer

    _check_parallel(predictions=predictions, references=references)
    names = ["rouge1", "rouge2", "rougeL"]
    scorer = RougeScorer(names, tokenizer=UnicodeTokenizer())
    rows = [scorer.score(reference, output) for output, reference in zip(predictions, references, strict=True)]
    return {name: np.array([100.0 * row[name].fmeasure for row in rows]) for name in names}


def rouge(
    predictions: Sequence[str], references: Sequence[str], bootstrap: Bootstrap = Bootstrap()
) -> dict[str, Score]:
    """Mean F-measures x 100 over documents of rouge1, rouge2 and rougeL, over Unicode-aware words, unstemmed."""
    signature = (
        f"nrefs:1|{bootstrap.signature}|{UnicodeTokenizer.signature}|stem:no|mean:documents"
        f"|version:rouge-score-{version('rouge-score')}"
    )
    values = rouge_per_document(predictions, references)
    return {
        name: _scored(_mean_statistics(values_D), ratio_of_sums, f"{name}|{signature}", bootstrap)
        for name, values_D in values.items()
    }


# ---------------------------------------------------------------- copying, length, likelihood


def copy_rate_per_document(predictions: Sequence[str], sources: Sequence[str]) -> np.ndarray:
    """Extractive fragment coverage per document, float64 [D] in [0, 1] (Grusky et al. 2018, section 4.1, COVERAGE).

    The fragments of an output are its greedily longest spans shared with the source; a single shared word is one too,
    so that their total length is the number of output words that occur in the source. An empty output copies nothing.
    """
    _check_parallel(predictions=predictions, sources=sources)
    tokenize = UnicodeTokenizer().tokenize
    rates = []
    for output, source in zip(predictions, sources, strict=True):
        words, known = tokenize(output), set(tokenize(source))
        rates.append(sum(word in known for word in words) / max(len(words), 1))
    return np.array(rates, dtype=np.float64)


def copy_rate(predictions: Sequence[str], sources: Sequence[str], bootstrap: Bootstrap = Bootstrap()) -> Score:
    """Mean share of output words that are copied from the source, in [0, 1]."""
    signature = f"coverage|{bootstrap.signature}|{UnicodeTokenizer.signature}|mean:documents|version:polygraft"
    return _scored(_mean_statistics(copy_rate_per_document(predictions, sources)), ratio_of_sums, signature, bootstrap)


def length_ratio(predictions: Sequence[str], references: Sequence[str], bootstrap: Bootstrap = Bootstrap()) -> Score:
    """Words of all outputs over words of all references (0 if the references have none)."""
    _check_parallel(predictions=predictions, references=references)
    tokenize = UnicodeTokenizer().tokenize
    counts_D2 = np.array(
        [(len(tokenize(o)), len(tokenize(r))) for o, r in zip(predictions, references, strict=True)], dtype=np.float64
    )
    signature = f"output/reference words|{bootstrap.signature}|{UnicodeTokenizer.signature}|version:polygraft"
    return _scored(counts_D2, ratio_of_sums, signature, bootstrap)


def loss_per_token(loss_nats_D: Sequence[float], tokens_D: Sequence[int], bootstrap: Bootstrap = Bootstrap()) -> Score:
    """Teacher-forced loss per reference token in nats: all losses over all tokens, so long documents weigh more.

    Resampled as a ratio: numerator and denominator of a draw come from the same documents.
    """
    _check_parallel(loss_nats=loss_nats_D, tokens=tokens_D)
    statistics_D2 = np.stack([np.asarray(loss_nats_D, np.float64), np.asarray(tokens_D, np.float64)], axis=1)
    signature = f"nats/reference token|{bootstrap.signature}|tokens:text and </s>, no language token|version:polygraft"
    return _scored(statistics_D2, ratio_of_sums, signature, bootstrap)


def score_texts(
    predictions: Sequence[str], references: Sequence[str], sources: Sequence[str], bootstrap: Bootstrap = Bootstrap()
) -> dict[str, Score]:
    """Every score of generated text: chrf++, rouge1, rouge2, rougeL, copy_rate, length_ratio."""
    return {
        "chrf++": chrf_pp(predictions, references, bootstrap),
        **rouge(predictions, references, bootstrap),
        "copy_rate": copy_rate(predictions, sources, bootstrap),
        "length_ratio": length_ratio(predictions, references, bootstrap),
    }
