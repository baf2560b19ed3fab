"""What each score counts in documents: statistics that are summed, drawn and left out without reading a text again.

Suffixes: D documents, K statistics per document.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, Protocol

import numpy as np

from polygraft.data.identification import model_code, other_languages, other_scripts
from polygraft.data.languages import language_prefix
from polygraft.scoring.bootstrap import mean_statistics
from polygraft.scoring.tokens import UnicodeTokenizer

BLEU_TOKENIZERS = {"zh": "zh", "ja": "char", "ko": "char", "th": "char", "lo": "char", "km": "char", "my": "char"}
"""sacreBLEU's tokenizers by language; "13a" for all others. Its own choice for Japanese and Korean needs MeCab."""
REPEATED = 2  # words in a span that may repeat


class Document(Protocol):
    """A test document as scores see it; a `predictions.Prediction` is one."""

    @property
    def prediction(self) -> str: ...
    @property
    def reference(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def lang(self) -> str: ...
    @property
    def loss_nats(self) -> float: ...
    @property
    def reference_tokens(self) -> int: ...


def loss_statistics(rows: Sequence[Document]) -> np.ndarray:
    """Teacher-forced loss of the reference in nats, and its tokens: float64 [D, 2].

    All losses over all tokens, so long documents weigh more; numerator and denominator are resampled together.
    """
    return np.array([(row.loss_nats, row.reference_tokens) for row in rows], dtype=np.float64)


def chrf_metric() -> Any:
    from sacrebleu.metrics import CHRF

    return CHRF(word_order=2)


def chrf_statistics(rows: Sequence[Document]) -> np.ndarray:
    """sacreBLEU's counts per document, float64 [D, 24]: (output, reference, matching) for each of 8 n-gram orders."""
    metric = chrf_metric()
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
    factor = chrf_metric().beta ** 2
    bottom = factor * precision + recall
    return 100.0 * np.divide(
        (1 + factor) * precision * recall, bottom, out=np.zeros(np.shape(bottom)), where=np.asarray(bottom > 0)
    )


def bleu_metric(tokenize: str) -> Any:
    """sacreBLEU's BLEU with one of its tokenizers."""
    from sacrebleu.metrics import BLEU

    return BLEU(tokenize=tokenize, force=True)  # force silences a warning that is meant for tokenized input


def bleu_tokenizer(lang: str) -> str:
    """The tokenizer by which BLEU cuts texts of a language; of none ("") that of most."""
    return BLEU_TOKENIZERS.get(language_prefix(lang), "13a")


def bleu_statistics(tokenize: str | None, rows: Sequence[Document]) -> np.ndarray:
    """sacreBLEU's counts per document, float64 [D, 10]: words of output and reference, n-grams matching and in all.

    By one tokenizer, or by that of each document's language.
    """
    places: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        places[tokenize or bleu_tokenizer(row.lang)].append(place)
    found_DK = np.zeros((len(rows), 10))
    for name, chosen in places.items():
        texts = [rows[place].prediction for place in chosen], [[rows[place].reference for place in chosen]]
        found_DK[chosen] = bleu_metric(name)._extract_corpus_statistics(*texts)
    return found_DK


def bleu_from_sums(sums_K: np.ndarray) -> np.ndarray:
    """BLEU in [0, 100] from summed statistics [..., 10] (Papineni et al. 2002; sacrebleu.BLEU.compute_bleu at once).

    A precision without a match is smoothed as sacreBLEU does by default: 1 / 2, 1 / 4 … of one match.
    """
    output, reference, match, total = sums_K[..., 0], sums_K[..., 1], sums_K[..., 2:6], sums_K[..., 6:10]
    smoothed = 0.5 ** np.cumsum(match == 0, axis=-1)
    top = np.where(match == 0, smoothed, match)
    defined = (total > 0).all(axis=-1) & (match > 0).any(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        precision = np.log(100.0 * top / total).mean(axis=-1)
        brevity = np.where(output < reference, np.exp(1 - reference / output), 1.0)
        return np.where(defined, brevity * np.exp(precision), 0.0)


@lru_cache(maxsize=2**14)
def words(text: str) -> tuple[str, ...]:
    """The words of a text, kept for the next score."""
    return tuple(UnicodeTokenizer().tokenize(text))


def rouge_statistics(kind: str, rows: Sequence[Document]) -> np.ndarray:
    """F-measure x 100 of rouge1, rouge2, rougeL or rougeLsum (Lin 2004) over Unicode-aware words: float64 [D, 2].

    Unstemmed. rougeLsum joins the common subsequences of an output's lines with each line of the reference; without
    lines it is rougeL. As rouge-score has them, whose import and whose table of prefixes would take most of the time.
    """
    measure = ROUGE[kind]
    return mean_statistics([100.0 * measure(row.reference, row.prediction) for row in rows])


def spans(text: str, size: int) -> list[tuple[str, ...]]:
    """All spans of so many words."""
    return list(zip(*(words(text)[start:] for start in range(size)), strict=False))


def _common(size: int, reference: str, output: str) -> float:
    wanted, found = Counter(spans(reference, size)), Counter(spans(output, size))
    return _f_measure((wanted & found).total(), wanted.total(), found.total())


def _longest(reference: str, output: str) -> float:
    wanted, found = words(reference), words(output)
    return _f_measure(common_subsequence(wanted, found), len(wanted), len(found))


def _by_line(reference: str, output: str) -> float:
    if "\n" not in reference and "\n" not in output:
        return _longest(reference, output)
    from rouge_score.rouge_scorer import RougeScorer

    class Words:
        tokenize = staticmethod(words)

    return RougeScorer(["rougeLsum"], tokenizer=Words()).score(reference, output)["rougeLsum"].fmeasure


ROUGE: dict[str, Callable[[str, str], float]] = {
    "rouge1": partial(_common, 1), "rouge2": partial(_common, 2), "rougeL": _longest, "rougeLsum": _by_line
}  # fmt: skip


def _f_measure(matching: int, wanted: int, found: int) -> float:
    precision, recall = matching / max(found, 1), matching / max(wanted, 1)
    return 2 * precision * recall / (precision + recall) if matching else 0.0


def common_subsequence(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest common subsequence: a row of the usual table at once, as bits (Hyyrö 2004)."""
    places: dict[str, int] = defaultdict(int)
    for place, word in enumerate(one):
        places[word] |= 1 << place
    whole = (1 << len(one)) - 1
    row = whole  # a 0 where the subsequence grows by one
    for word in other:
        grown = row & places.get(word, 0)
        row = (row + grown | row - grown) & whole
    return len(one) - row.bit_count()


def length_statistics(rows: Sequence[Document]) -> np.ndarray:
    """Words of output and reference, float64 [D, 2]; their ratio is 0 if the references have none."""
    return np.array([(len(words(row.prediction)), len(words(row.reference))) for row in rows], dtype=np.float64)


def copy_statistics(rows: Sequence[Document]) -> np.ndarray:
    """Extractive fragment coverage, float64 [D, 2] (Grusky et al. 2018, section 4.1, COVERAGE).

    The fragments of an output are its greedily longest spans shared with the source; a single shared word is one too,
    so that their total length is the number of output words that occur in the source. An empty output copies nothing.
    """
    rates = []
    for row in rows:
        output, known = words(row.prediction), set(words(row.source))
        rates.append(sum(word in known for word in output) / max(len(output), 1))
    return mean_statistics(rates)


def repeat_statistics(rows: Sequence[Document]) -> np.ndarray:
    """Share of an output's pairs of words that it had before, in percent, float64 [D, 2].

    seq-rep-n of Welleck et al. 2020 (section 6.1), with n = 2, since outputs are short. A single word repeats nothing.
    """
    rates = []
    for row in rows:
        pairs = spans(row.prediction, REPEATED)
        rates.append(100 * (1 - len(set(pairs)) / len(pairs)) if pairs else 0.0)
    return mean_statistics(rates)


def language_statistics(rows: Sequence[Document]) -> np.ndarray:
    """100 for an output that cannot be in the language asked for, else 0: float64 [D, 2].

    Where no model knows the language, one in another script.
    """
    wrong_D = np.zeros(len(rows))
    for lang in {row.lang for row in rows}:
        places = [place for place, row in enumerate(rows) if row.lang == lang]
        tell: Callable[..., list[str | None] | None] = other_languages if model_code(lang) else other_scripts
        found = tell([rows[place].prediction for place in places], lang) or [None] * len(places)
        wrong_D[places] = [100.0 * (other is not None) for other in found]
    return mean_statistics(wrong_D.tolist())
