"""What a model's figures do not say, in sentences: each follows by rule from its files."""

from __future__ import annotations

from collections.abc import Iterator

from polygraft.nano import PREFIX as BUNDLED
from polygraft.publishing.facts import ModelFacts
from polygraft.report.formats import decimal, interval
from polygraft.scoring.metrics import CHRF
from polygraft.scoring.words import LEADS, plural

ALL, CHRF_NAME = "all", "chrf++"


def limits(facts: ModelFacts) -> Iterator[str]:
    """Yield the limits of a model, that which matters most first."""
    if facts.scores is None:
        yield "It was not evaluated: nothing is known of the quality of its outputs."
    else:
        yield from _of_scores(facts)
        if facts.exported:
            yield "The scores are those of the checkpoint that it was exported from; it differs as said above."
    if any(origin.name.startswith(f"{BUNDLED}nano") for origin in facts.origins):
        yield "It is made from polygraft's bundled nano models, which are there for trying, and too small for use."
    yield _of_languages(facts)
    if tuned := facts.tuned:
        longest = tuned.settings.get("max_source_length_tokens")
        yield f"Inputs are cut after {longest} tokens, as in fine-tuning: of longer texts it reads the beginning."
    yield (
        "Its outputs can be fluent and wrong. The scores count what an output shares with a reference, not whether "
        "what it says is true; nobody looked for bias or harm, and no person judged the outputs."
    )


def _of_scores(facts: ModelFacts) -> Iterator[str]:
    assert facts.scores is not None
    systems, lead = facts.scores.systems, LEADS[facts.evaluation.lead_tokens == 0]
    own, other = systems.model[ALL][CHRF_NAME], systems.lead[ALL][CHRF_NAME]
    if own.low > other.score:
        beside = "is above"
    else:
        beside = "falls short of" if own.high < other.score else "cannot be told from"
    ends = interval(own.low, own.high, CHRF.places)
    yield (
        f"By {CHRF.title} it {beside} the {lead.name}: {decimal(own.score, CHRF.places)} (interval {ends}) against "
        f"{decimal(other.score, CHRF.places)}, which takes no model."
        + ("" if own.low > other.score else " By this score it has shown no use yet.")
    )
    most = facts.evaluation.max_samples
    yield (
        f"The scores are of {plural(facts.scores.documents, 'test document')}"
        f"{', the first of the file' if most else ''}, and say nothing of texts of another kind. Their intervals are "
        "those of the documents; this is one model of one seed, and training with another seed gives another one."
    )


def _of_languages(facts: ModelFacts) -> str:
    pairs = ", ".join(source if source == target else f"{source} → {target}" for source, target in facts.directions)
    known = {code for direction in facts.directions for code in direction}
    others = [str(code) for code in facts.tokenizer.get("extra_special_tokens") or [] if str(code) not in known]
    more = f" Its tokenizer has codes of {len(others)} other languages; what the model makes of them" if others else ""
    forgotten = " is not known, beyond what stands above of the languages that the base model knew."
    unknown = forgotten if facts.place and facts.place.run.restored else " was not measured."
    return f"It was made for {pairs}.{more + unknown if more else ''}"
