"""Scores of generated text, each with a bootstrap interval over documents and a signature of how it was computed.

A score is a function that counts statistics in documents, and an entry in METRICS; all else reads that table.

Suffixes: D documents, R bootstrap resamples, K sufficient statistics per document. A corpus score is a function of
the statistics summed over documents, so that all R resamples are one matrix product and no text is read twice.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

import numpy as np

from polygraft.scoring.predictions import Prediction
from polygraft.settings import Verdict

_CHUNK_ENTRIES = 4_000_000  # resampling weights held at a time: 32 MB
DIRECTIONS = {-1: "lower is better", 1: "higher is better"}

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
    """One corpus score with its bootstrap interval."""

    score: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A corpus score: how it is computed, and how it is shown to people.

    Attributes:
        title: what it is called where there is little room.
        unit: what its figures are, in a few words.
        better: the direction that is good; 0 where neither is.
        places: decimals that are worth showing.
        statistics: of each document, float64 [D, K].
        from_sums: the score that follows from statistics summed over documents, [..., K] to [...].
        signature: which version and settings made it.
        of_text: whether it is of the text alone, so that the lead baseline has it, too.
        long_title: what verdicts call it, where that is not its title.
    """

    title: str
    unit: str
    better: Literal[-1, 0, 1]
    places: int
    statistics: Callable[[Sequence[Prediction]], np.ndarray]
    from_sums: Callable[[np.ndarray], np.ndarray]
    signature: Callable[[Bootstrap], str]
    of_text: bool = True
    long_title: str = ""

    @property
    def name(self) -> str:
        """What verdicts call it."""
        return self.long_title or self.title

    @property
    def hint(self) -> str:
        """Its unit, and which direction is good."""
        return f"{self.unit}, {DIRECTIONS[self.better]}" if self.better else self.unit

    def score(self, statistics_DK: np.ndarray, bootstrap: Bootstrap = Bootstrap()) -> Score:
        """The score of all documents together, with its interval."""
        tail = (1.0 - bootstrap.confidence) / 2
        low, high = np.quantile(self.from_sums(resampled_sums(statistics_DK, bootstrap)), [tail, 1.0 - tail])
        return Score(float(self.from_sums(statistics_DK.sum(axis=0))), float(low), float(high))


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
    few = documents * bootstrap.resamples <= _CHUNK_ENTRIES
    draws = _kept_draws(documents, bootstrap) if few else _draws(documents, bootstrap)
    return np.concatenate([counts_RD @ statistics_DK for counts_RD in draws])


def _draws(documents: int, bootstrap: Bootstrap) -> Iterator[np.ndarray]:
    """How often each document is drawn, float64 [R, D], some resamples at a time."""
    rng = np.random.default_rng(bootstrap.seed)
    chunk = max(1, _CHUNK_ENTRIES // documents)
    for start in range(0, bootstrap.resamples, chunk):
        size = min(chunk, bootstrap.resamples - start)
        yield rng.multinomial(documents, np.full(documents, 1.0 / documents), size=size).astype(np.float64)


@functools.lru_cache(maxsize=2)
def _kept_draws(documents: int, bootstrap: Bootstrap) -> list[np.ndarray]:
    """The same, drawn once for all scores of as many documents."""
    return list(_draws(documents, bootstrap))


def ratio_of_sums(sums_2: np.ndarray) -> np.ndarray:
    """First statistic over second, [..., 2] to [...]; 0 where the second is 0."""
    top, bottom = sums_2[..., 0], sums_2[..., 1]
    return np.divide(top, bottom, out=np.zeros(np.shape(top)), where=np.asarray(bottom != 0))


# ---------------------------------------------------------------- statistics of documents


def mean_statistics(values: Sequence[float]) -> np.ndarray:
    """Statistics of which `ratio_of_sums` makes the mean over documents, float64 [D, 2]."""
    values_D = np.asarray(values, np.float64)
    return np.stack([values_D, np.ones_like(values_D)], axis=1)


def loss_statistics(rows: Sequence[Prediction]) -> np.ndarray:
    """Teacher-forced loss of the reference in nats, and its tokens: float64 [D, 2].

    All losses over all tokens, so long documents weigh more; numerator and denominator are resampled together.
    """
    return np.array([(row.loss_nats, row.reference_tokens) for row in rows], dtype=np.float64)


def _chrf_metric() -> Any:
    from sacrebleu.metrics import CHRF

    return CHRF(word_order=2)


def chrf_statistics(rows: Sequence[Prediction]) -> np.ndarray:
    """sacreBLEU's counts per document, float64 [D, 24]: (output, reference, matching) for each of 8 n-gram orders."""
    metric = _chrf_metric()
    metric._force = True  # silences a warning about " ." endings that is meant for tokenized BLEU input
    outputs, references = [row.prediction for row in rows], [row.reference for row in rows]
    return np.asarray(metric._extract_corpus_statistics(outputs, [references]), dtype=np.float64)


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


def rouge_statistics(name: str, rows: Sequence[Prediction]) -> np.ndarray:
    """F-measure x 100 of rouge1, rouge2 or rougeL (Lin 2004) over Unicode-aware words, unstemmed: float64 [D, 2]."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer([name], tokenizer=UnicodeTokenizer())
    return mean_statistics([100.0 * scorer.score(row.reference, row.prediction)[name].fmeasure for row in rows])


def _rouge_signature(name: str, bootstrap: Bootstrap) -> str:
    return (
        f"{name}|nrefs:1|{bootstrap.signature}|{UnicodeTokenizer.signature}|stem:no|mean:documents"
        f"|version:rouge-score-{version('rouge-score')}"
    )


def length_statistics(rows: Sequence[Prediction]) -> np.ndarray:
    """Words of output and reference, float64 [D, 2]; their ratio is 0 if the references have none."""
    tokenize = UnicodeTokenizer().tokenize
    return np.array([(len(tokenize(row.prediction)), len(tokenize(row.reference))) for row in rows], dtype=np.float64)


def copy_statistics(rows: Sequence[Prediction]) -> np.ndarray:
    """Extractive fragment coverage, float64 [D, 2] (Grusky et al. 2018, section 4.1, COVERAGE).

    The fragments of an output are its greedily longest spans shared with the source; a single shared word is one too,
    so that their total length is the number of output words that occur in the source. An empty output copies nothing.
    """
    tokenize = UnicodeTokenizer().tokenize
    rates = []
    for row in rows:
        words, known = tokenize(row.prediction), set(tokenize(row.source))
        rates.append(sum(word in known for word in words) / max(len(words), 1))
    return mean_statistics(rates)


# ---------------------------------------------------------------- the table


def _own_signature(what: str, how: str, bootstrap: Bootstrap) -> str:
    return f"{what}|{bootstrap.signature}|{how}|version:polygraft"


def _rouge(name: str, title: str) -> Metric:
    return Metric(
        title=title, unit="0 to 100", better=1, places=1, from_sums=ratio_of_sums,
        statistics=functools.partial(rouge_statistics, name), signature=functools.partial(_rouge_signature, name),
    )  # fmt: skip


METRICS: dict[str, Metric] = {
    "loss_per_token": Metric(
        title="Loss", long_title="loss per reference token (nats)", unit="nats per reference token", better=-1,
        places=3, of_text=False, statistics=loss_statistics, from_sums=ratio_of_sums,
        signature=functools.partial(_own_signature, "nats/reference token", "tokens:text and </s>, no language token"),
    ),
    "chrf++": Metric(
        title="chrF++", unit="0 to 100", better=1, places=1,
        statistics=chrf_statistics, from_sums=chrf_from_sums, signature=chrf_signature,
    ),
    "rouge1": _rouge("rouge1", "ROUGE-1"),
    "rouge2": _rouge("rouge2", "ROUGE-2"),
    "rougeL": _rouge("rougeL", "ROUGE-L"),
    "length_ratio": Metric(
        title="Length", unit="output / reference words, 1 is ideal", better=0, places=2,
        statistics=length_statistics, from_sums=ratio_of_sums,
        signature=functools.partial(_own_signature, "output/reference words", UnicodeTokenizer.signature),
    ),
    "copy_rate": Metric(
        title="Copied", unit="share of output words that are in the source", better=0, places=2,
        statistics=copy_statistics, from_sums=ratio_of_sums,
        signature=functools.partial(_own_signature, "coverage", f"{UnicodeTokenizer.signature}|mean:documents"),
    ),
}  # fmt: skip
"""Every score, in the order in which they are shown."""
LOSS, CHRF = METRICS["loss_per_token"], METRICS["chrf++"]


def metrics_of(system: str) -> dict[str, Metric]:
    """The scores that a system has: "model" all, "lead" those of text alone."""
    return {name: metric for name, metric in METRICS.items() if metric.of_text or system == "model"}


def shown_first(verdict: Verdict | None) -> list[str]:
    """Names of the scores that tables begin with and the report plots: those that arms are compared by."""
    compared = Verdict.model_fields["metrics"].default if verdict is None else verdict.metrics
    return [name for name, metric in METRICS.items() if metric is LOSS or name in compared]
