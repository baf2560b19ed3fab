"""The sample outputs: which test documents are shown, and what each arm made of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from markupsafe import Markup

from polygraft.report.differences import marked
from polygraft.report.folder import Run
from polygraft.report.formats import decimal
from polygraft.report.scores import evaluated, language_title
from polygraft.scoring import predictions
from polygraft.scoring.predictions import Prediction

SAMPLES = 8
SHOWN_SOURCE_CHARACTERS = 420


@dataclass(frozen=True, kw_only=True)
class Output:
    """What an arm wrote, and the loss of the reference."""

    arm: int
    name: str
    text: Markup
    loss: str


@dataclass(frozen=True, kw_only=True)
class ShownDocument:
    """A document, its source cut in two where it is long, the lead baseline and all outputs, with words marked."""

    document: Prediction
    direction: str
    html_lang: str
    html_source_lang: str
    source: str
    source_rest: str
    lead: Markup
    outputs: list[Output]


def choose(identities: Iterable[tuple[str, str]], amount: int = SAMPLES) -> list[tuple[str, str]]:
    """The fixed rule: sort (language, id) by the SHA-256 of the id, take `amount` at equal distances."""
    digest = {item: hashlib.sha256(item[1].encode("utf-8", "replace")).hexdigest() for item in identities}
    ordered = sorted(digest, key=lambda item: (digest[item], item))
    step = max(1.0, len(ordered) / amount)
    return [ordered[int(index * step)] for index in range(min(amount, len(ordered)))]


def beside(run: Run) -> dict[str, str]:
    """For each arm the one that its outputs are compared with: the control, whose own are with the treatment's."""
    names = [arm.name for arm in run.arms]
    if len(names) < 2:
        return {}
    verdict = run.recipe.verdict
    control, treatment = (verdict.control, verdict.treatment) if verdict else names[:2]
    return {name: treatment if name == control else control for name in names}


def samples(run: Run) -> list[ShownDocument]:
    """The chosen documents: source, reference, lead and each arm's output (its first evaluated seed)."""
    rows: dict[tuple[str, int], dict[tuple[str, str], Prediction]] = {}
    for arm in run.arms:
        for seed_run, _ in evaluated(arm.runs)[:1]:
            read = predictions.read(seed_run.folder / "evaluate" / predictions.FILE)
            rows[arm.name, arm.index] = {(row.direction, row.id): row for row in read}
    common = set.intersection(*map(set, rows.values())) if rows else set()
    others = beside(run)
    return [_sample({arm: of_arm[identity] for arm, of_arm in rows.items()}, others) for identity in choose(common)]


def _sample(by_arm: dict[tuple[str, int], Prediction], others: Mapping[str, str]) -> ShownDocument:
    first = next(iter(by_arm.values()))
    written = {name: row.prediction for (name, _), row in by_arm.items()}
    cut = len(first.source) if len(first.source) <= SHOWN_SOURCE_CHARACTERS + 80 else SHOWN_SOURCE_CHARACTERS
    return ShownDocument(
        document=first,
        direction=language_title(first.direction),
        html_lang=_html(first.lang),
        html_source_lang=_html(first.source_lang or first.lang),
        source=first.source[:cut],
        source_rest=first.source[cut:],
        lead=marked(first.lead, first.reference),
        outputs=[
            Output(
                arm=index,
                name=name,
                text=marked(row.prediction, row.reference, written.get(others.get(name, ""))),
                loss=decimal(row.loss_nats / row.reference_tokens),
            )
            for (name, index), row in by_arm.items()
        ],
    )


def _html(code: str) -> str:
    """A tokenizer's code as HTML names languages."""
    return code.replace("_XX", "").replace("_", "-")
