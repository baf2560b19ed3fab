"""Which model is best to start from, for a text? Everything that can be told without training, for any candidates.

A candidate that cannot be used is refused with the reason; the others go on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from polygraft import machine
from polygraft.errors import CheckpointError, PolygraftError, RecipeError
from polygraft.models import checkpoints
from polygraft.progress import Progress
from polygraft.ranking.candidates import Candidate, Coverage, Role, cover, open_candidate
from polygraft.ranking.notes import notes_on
from polygraft.ranking.pairs import KeptSource, Pair, TargetRows, match
from polygraft.ranking.recommend import recommend
from polygraft.ranking.report import ALL, CandidateReport, Figures, RankReport, TextReport
from polygraft.ranking.score import Scored, ScoringPlan, plan_scoring, score_source, score_target
from polygraft.ranking.text import LanguageText, read_texts
from polygraft.settings import TextData

PROBE_TEXTS = 200

logger = logging.getLogger(__name__)
MENDABLE = (PolygraftError, OSError, MemoryError)  # by the user: other files, more room. All else is a defect of ours


@dataclass(frozen=True)
class _Prepared:
    candidate: Candidate
    plan: ScoringPlan
    coverage: list[Coverage]
    counts: list[np.ndarray]


class _Meter:
    """The share of all operations that is done."""

    def __init__(self, bar: Progress, total: float) -> None:
        self.bar, self.total, self.done = bar, max(total, 1.0), 0.0

    def add(self, operations: float) -> None:
        self.done += operations
        self.bar.update(min(self.done / self.total, 0.99))


def run(sources: Sequence[str], targets: Sequence[str], text: Sequence[TextData], max_samples: int) -> RankReport:
    """Measure every candidate on the text, map every source into every target, and recommend one of each.

    Args:
        sources, targets: masked language models, and mBARTs: hub names, folders, bundled names.
        text: files with their columns and languages.
        max_samples: documents that models read, over all languages.

    Raises:
        RecipeError: no candidate is given.
        DataError: a file that cannot be used.
    """
    started = time.monotonic()
    names: list[tuple[Role, str]] = [*(("source", s) for s in sources), *(("target", t) for t in targets)]
    names = list(dict.fromkeys(names))
    if not names:
        raise RecipeError("polygraft rank: there is no candidate. Name them: --source MODEL, --target MODEL.")
    texts = read_texts(text, max_samples)
    reports: dict[tuple[Role, str], CandidateReport] = {}
    prepared: list[_Prepared] = []
    for role, name in names:
        try:
            prepared.append(_prepare(name, role, texts))
        except MENDABLE as error:  # what the user can mend in one candidate does not stop the others
            reports[role, name] = _refused(name, role, error)
    scored: dict[tuple[Role, str], Scored] = {}
    rows: list[KeptSource] = []
    pairs: list[Pair] = []
    with Progress("rank") as bar:
        meter = _Meter(bar, sum(one.plan.operations for one in prepared))
        for one in prepared:
            key = one.candidate.role, one.candidate.name
            bar.note = one.candidate.name
            try:
                if one.candidate.role == "source":
                    reports[key], scored[key] = _source(one, meter, rows if targets else None)
                else:
                    reports[key], scored[key], found = _target(one, meter, rows, texts)
                    pairs += found
            except MENDABLE as error:
                reports[key] = _refused(one.candidate.name, one.candidate.role, error)
                rows = [kept for kept in rows if ("source", kept.name) != key]
        bar.note = ""
        bar.update(1.0)
    ordered = [reports[key] for key in names]
    return RankReport(
        text=tuple(_text_report(one) for one in texts),
        candidates=tuple(ordered),
        pairs=tuple(pairs),
        recommendation=recommend(ordered, scored, pairs, [one.language for one in texts]),
        seconds=time.monotonic() - started,
        machine=machine.describe(),
        versions=machine.versions(),
    )


def _text_report(text: LanguageText) -> TextReport:
    return TextReport(
        language=text.language,
        documents=text.documents,
        counted_documents=len(text.counted),
        scored_documents=len(text.scored),
        scored_characters=sum(map(len, text.scored)),
        scripts=text.scripts,
    )


def _refused(name: str, role: Role, error: Exception) -> CandidateReport:
    logger.debug("%s refused", name, exc_info=error)
    if isinstance(error, PolygraftError):
        return CandidateReport(name=name, role=role, refused=str(error).removeprefix(f"{name}: "))
    first = (str(error).strip().splitlines() or [""])[0]
    return CandidateReport(name=name, role=role, refused=f"cannot be measured: {type(error).__name__}: {first}")


def _prepare(name: str, role: Role, texts: Sequence[LanguageText]) -> _Prepared:
    candidate = open_candidate(name, role)
    plan = plan_scoring(candidate, texts)
    if not plan.pieces:
        languages = ", ".join(text.language for text in texts)
        raise CheckpointError(
            f"{name}: has no code for any language of the text ({languages}). Give it one from a related language: "
            f"polygraft add-language --model {name} --language NEW=KNOWN"
        )
    covered = [cover(candidate, text) for text in texts]
    return _Prepared(candidate, plan, [one for one, _ in covered], [counts for _, counts in covered])


def _source(one: _Prepared, meter: _Meter, rows: list[KeptSource] | None) -> tuple[CandidateReport, Scored]:
    """Measure a source; its embedding rows are kept in `rows`, if there are targets to map them into."""
    model, has_head = checkpoints.load_source(one.candidate.name)
    scored = score_source(one.candidate, _ready(model), has_head, one.plan, meter.add)
    if rows is not None:
        rows.append(KeptSource.of(one.candidate.name, model.cpu(), one.candidate.tokenizer))
    return _report(one, scored, has_head), scored


def _target(
    one: _Prepared, meter: _Meter, rows: Sequence[KeptSource], texts: Sequence[LanguageText]
) -> tuple[CandidateReport, Scored, list[Pair]]:
    """Measure a target, and how well each source maps into it."""
    model = checkpoints.load_seq2seq(one.candidate.name)
    name, tokenizer = one.candidate.name, one.candidate.tokenizer
    mine = TargetRows.of(name, model, tokenizer, np.sum(one.counts, axis=0))
    scored = score_target(one.candidate, _ready(model), one.plan, mine.sets, meter.add)
    each = max(1, PROBE_TEXTS // len(texts))
    probe = [document for text in texts for document in text.counted[:each]]
    pairs = [match(source, mine, probe) for source in rows]
    return _report(one, scored, None), scored, pairs


def _ready(model: Any) -> Any:
    if not torch.cuda.is_available():
        model.set_attn_implementation("eager")  # as in training; torch does not count what sdpa does on a CPU
    return model.eval().requires_grad_(False)  # torch's flop counter stumbles over parameters handed to submodules


def _report(one: _Prepared, scored: Scored, has_head: bool | None) -> CandidateReport:
    candidate = one.candidate
    figures = [_figures(coverage, counts, scored) for coverage, counts in zip(one.coverage, one.counts, strict=True)]
    if len(figures) > 1:
        figures.insert(0, _mean(figures, scored))
    report = CandidateReport(
        name=candidate.name,
        role=candidate.role,
        model_type=candidate.config.model_type,
        parameters=candidate.parameters,
        vocabulary=candidate.config.vocab_size,
        licence=candidate.licence,
        has_mlm_head=has_head,
        cost=scored.cost,
        figures=tuple(figures),
    )
    return replace(report, notes=tuple(notes_on(candidate, report, scored, one.plan.texts)))


def _figures(coverage: Coverage, counts: np.ndarray, scored: Scored) -> Figures:
    language, code = coverage.language, coverage.code
    never_learned = counts[scored.never_learned].sum() / max(1, counts.sum())
    main, whole, reliance = (
        found.only(language).estimate() if found is not None and language in found.points else None
        for found in (scored.main, scored.whole, scored.reliance)
    )
    return Figures(
        language=language,
        tokens_per_word=coverage.tokens_per_word,
        characters_per_token=coverage.characters_per_token,
        unknown_share=coverage.unknown_share,
        known_letters=coverage.known_letters,
        code=code,
        code_read=None if code is None else code not in scored.unread_codes,
        never_learned_share=float(never_learned),
        bits_per_character=main,
        perplexity=scored.perplexity.get(language),
        whole_bits_per_character=whole,
        source_reliance=reliance,
    )


def _mean(figures: Sequence[Figures], scored: Scored) -> Figures:
    """The mean over languages, each counting the same."""

    def mean(name: str) -> float:
        return float(np.mean([getattr(one, name) for one in figures]))

    main, whole, reliance = (
        found.estimate() if found is not None else None for found in (scored.main, scored.whole, scored.reliance)
    )
    return Figures(
        language=ALL,
        tokens_per_word=mean("tokens_per_word"),
        characters_per_token=mean("characters_per_token"),
        unknown_share=mean("unknown_share"),
        known_letters={},
        code=None,
        code_read=None,
        never_learned_share=mean("never_learned_share"),
        bits_per_character=main,
        perplexity=None,
        whole_bits_per_character=whole,
        source_reliance=reliance,
    )
