"""What `polygraft rank` found: plain data, as `--json` prints it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from polygraft.ranking.candidates import Role
from polygraft.ranking.pairs import Pair
from polygraft.ranking.score import TokenCost
from polygraft.scoring.intervals import Estimate

ALL = "all"


@dataclass(frozen=True, kw_only=True)
class TextReport:
    """One language of the text: documents in the files, tokenized, read by models; scripts of its letters by share."""

    language: str
    documents: int
    counted_documents: int
    scored_documents: int
    scored_characters: int
    scripts: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Figures:
    """A candidate on one language, or the mean over all its languages (`language` "all"; `code` is then None).

    Attributes:
        code, code_read: the target's code of the language, and whether it ever read text under it.
        never_learned_share: of the text's tokens, those whose rows training never gave a meaning.
        bits_per_character: a source's pseudo-likelihood of hidden words, a target's denoising loss on removed spans.
        perplexity: the same per token of the candidate's own tokenizer; not comparable between tokenizers.
        whole_bits_per_character: a target's denoising loss on the whole original.
        source_reliance: by how many bits per character that rises with another document's source.
    """

    language: str
    tokens_per_word: float
    characters_per_token: float
    unknown_share: float
    known_letters: dict[str, float]
    code: str | None
    code_read: bool | None
    never_learned_share: float
    bits_per_character: Estimate | None
    perplexity: float | None
    whole_bits_per_character: Estimate | None
    source_reliance: Estimate | None


@dataclass(frozen=True, kw_only=True)
class CandidateReport:
    """One candidate; one that was `refused` has the reason there, and what was not found out of it is None or empty."""

    name: str
    role: Role
    refused: str | None = None
    model_type: str | None = None
    parameters: int | None = None
    vocabulary: int | None = None
    licence: str | None = None
    has_mlm_head: bool | None = None
    cost: TokenCost | None = None
    figures: tuple[Figures, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def overall(self) -> Figures:
        """The figures over all languages."""
        return self.figures[0]


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """The one recommendation: a sentence, what it rests on, and what to know before following it."""

    source: str | None
    target: str | None
    sentence: str
    reasons: tuple[str, ...]
    cautions: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class RankReport:
    """Everything that was found, candidates in the order in which they were given."""

    text: tuple[TextReport, ...]
    candidates: tuple[CandidateReport, ...]
    pairs: tuple[Pair, ...]
    recommendation: Recommendation
    seconds: float
    machine: dict[str, Any]
    versions: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
