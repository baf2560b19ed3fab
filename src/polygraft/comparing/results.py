"""What `polygraft score` and `polygraft compare` find."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from polygraft.scoring.comparison import Comparison
from polygraft.scoring.figures import rounded
from polygraft.scoring.metrics import Metric
from polygraft.scoring.verdict import adjusted_p, as_dict
from polygraft.scoring.words import finding

INTERVALS = "t-interval|documents:paired,jackknife|seeds:welch|adjust:holm"


@dataclass(frozen=True, kw_only=True)
class OutputScore:
    """One score of one system: the mean over its files, its interval over documents (averaged), and each file's.

    `reference` is the same score of the references, where it is one of outputs alone; `places` are worth showing.
    """

    title: str
    places: int
    score: float
    low: float
    high: float
    by_file: Sequence[float]
    reference: float | None


@dataclass(frozen=True, kw_only=True)
class OutputScores:
    """What `polygraft score` found: `scores` and `signatures` by name."""

    system: str
    files: Sequence[str]
    documents: int
    scores: Mapping[str, OutputScore]
    signatures: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class ComparedScore:
    """A comparison by one score.

    Attributes:
        name: the score's, as METRICS has it.
        metric: what it is.
        found: effect, interval, word; its interval is adjusted for the number of secondary ones.
        p_paired_bootstrap: sacreBLEU's, where there is one file on each side.
    """

    name: str
    metric: Metric
    found: Comparison
    p_paired_bootstrap: float | None

    @property
    def neutral(self) -> bool:
        """Whether neither direction is good, so that no word is said."""
        return self.metric.better == 0

    @property
    def said(self) -> str:
        """The word, or that of these documents alone; nothing of a score without a good direction."""
        if self.neutral:
            return ""
        return self.found.word if self.found.includes_seeds else f"on these documents: {self.found.suggestion}"

    @property
    def figures(self) -> tuple[str, str]:
        """The difference and its interval as text, with decimals that show where the ends stand; "" for no interval."""
        found, places = self.found, self.metric.places
        if found.documents == 1:
            return rounded([], [found.effect], least=places, signed=True)[0], ""
        marks = (0.0,) if found.margin is None else (0.0, -found.margin, found.margin)
        ends = [found.low, found.high]
        low, high, middle = rounded(ends, [found.effect], marks=marks, least=places, signed=True)
        return middle, f"{low} to {high}"

    def to_json(self, treatment: str, control: str) -> dict[str, Any]:
        """All of it; `metric` is the name that `--metric` takes."""
        shown = as_dict(self.found, treatment, control)
        words = {"word": None, "suggestion": None} if self.neutral else {"word": self.found.word}
        return shown | words | {"metric": self.name, "p_paired_bootstrap": self.p_paired_bootstrap}


@dataclass(frozen=True, kw_only=True)
class ComparedSystems:
    """What `polygraft compare` found: `primary` decides `word` and `sentence`; all else is secondary."""

    treatment: OutputScores
    control: OutputScores
    primary: ComparedScore
    secondary: Sequence[ComparedScore]

    @property
    def word(self) -> str:
        return self.primary.found.word

    @property
    def sentence(self) -> str:
        return finding(self.primary.found, f"'{self.treatment.system}'", f"'{self.control.system}'")

    def to_json(self) -> dict[str, Any]:
        """What `polygraft compare --json` prints: the primary comparison, all others, both systems' scores."""
        names, level = (self.treatment.system, self.control.system), self.primary.found.confidence
        return {
            "word": self.word,
            "sentence": self.sentence,
            "primary": self.primary.to_json(*names),
            "secondary": [row.to_json(*names) | adjusted_p(row.found, level) for row in self.secondary],
            "systems": {"treatment": asdict(self.treatment), "control": asdict(self.control)},
            "signature": INTERVALS,
        }
