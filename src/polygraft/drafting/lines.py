"""The lines of a drafted recipe, each with its reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from polygraft.data.sources import Names, label, listed
from polygraft.drafting.drafts import Found
from polygraft.drafting.languages import NewLanguage, same_language
from polygraft.drafting.sizes import BatchSize, Numbers
from polygraft.drafting.wishes import Wishes
from polygraft.drafting.writing import RecipeLine, render
from polygraft.settings import PairData, TextData

HELD_OUT = 20  # documents that are wanted to measure on, where a share of them is held out


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All that a recipe is written from.

    Attributes:
        files: the pairs' files by key; `parted` says that they are written by init.
        languages, why: of `lang`, `source_lang` and `target_lang`: the code, and why it is that.
        added: languages that the target is to get a code for.
        parameters: the target's.
    """

    name: str
    wishes: Wishes
    found: Found
    files: dict[str, Names]
    parted: bool
    languages: dict[str, str]
    why: dict[str, str]
    added: list[NewLanguage]
    sizes: Numbers
    parameters: int

    @property
    def translates(self) -> bool:
        return not same_language(self.languages["source_lang"], self.languages["target_lang"])


def recipe_text(facts: Facts) -> str:
    """Return the text of the recipe."""
    task = "translation" if facts.translates else "summarization"
    head = [
        f"By `polygraft init` from {label(facts.wishes.pairs)}: {task}, and whether the source's rows help in it.",
        "Every line is yours to change (docs/recipe.md has all there are). Paths are relative to where polygraft runs.",
    ]
    blocks = (_whole, _text, _pairs, _finetune, _evaluate, _adaptation, _arms, _verdict)
    lines: list[RecipeLine | None] = []
    for block in blocks:
        lines += [*block(facts), None]
    return render(head, lines[:-1])


def _whole(facts: Facts) -> Iterator[RecipeLine]:
    wishes = facts.wishes
    yield RecipeLine(0, "name", facts.name, f"results go to outputs/{facts.name}")
    seeds = list(range(1, wishes.seeds + 1))
    enough = "one gives every figure, but no verdict" if len(seeds) == 1 else "a verdict wants 3, a claim 5"
    yield RecipeLine(0, "seeds", seeds, f"everything is run once per seed: {enough}")
    yield RecipeLine(
        0, "source", wishes.source, "its rows are what the detour brings; `polygraft rank` compares others"
    )
    yield RecipeLine(0, "target", wishes.target, "is fine-tuned, in all arms")
    if facts.added:
        relatives = {new.code: new.relative for new in facts.added}
        why = "; ".join(f"{new.code}: {new.why}" for new in facts.added)
        yield RecipeLine(0, "add_languages", relatives, f"the target has no code for these. {why}")


def _file(names: Names) -> Any:
    several = listed(names)
    return several[0] if len(several) == 1 else list(several)


def _text(facts: Facts) -> Iterator[RecipeLine]:
    found = facts.found
    yield RecipeLine(0, "text", None, "plain text: what the target reads before it is fine-tuned")
    own = found.text is not None
    why = (
        f"{facts.sizes.documents:,} documents"
        if own
        else "no text was given: the inputs of the pairs, without the test pairs"
    )
    yield RecipeLine(1, "train_file", _file(found.text if found.text else facts.files["train_file"]), why)
    column = found.text_column if own or not facts.parted else TextData.model_fields["text_column"].default
    yield RecipeLine(1, "text_column", column, "where the text is")
    why = facts.why.get("lang", "as that of the pairs' input")
    yield RecipeLine(1, "lang", facts.languages["lang"], f"mBART has to be told; {why}")
    share = max(0.05, min(0.3, round(HELD_OUT / max(1, facts.sizes.documents), 2)))
    yield RecipeLine(1, "validation_split", share, "held out, to measure the loss on")


def _pairs(facts: Facts) -> Iterator[RecipeLine]:
    yield RecipeLine(0, "pairs", None, "an input and an output each")
    trained, parted = f"{facts.sizes.trained:,} pairs to train on", "; set apart by init, your file is untouched"
    yield RecipeLine(1, "train_file", _file(facts.files["train_file"]), trained + parted * facts.parted)
    if validation := facts.files.get("validation_file"):
        yield RecipeLine(1, "validation_file", _file(validation), "they choose the best checkpoint")
    else:
        yield RecipeLine(1, "validation_split", 0.1, "of the training pairs: they choose the best checkpoint")
    yield RecipeLine(1, "test_file", _file(facts.files["test_file"]), "what is scored; training never sees them")
    columns = (facts.found.columns.text, facts.found.columns.summary)
    if facts.parted:
        columns = (PairData.model_fields["text_column"].default, PairData.model_fields["summary_column"].default)
    yield RecipeLine(1, "text_column", columns[0], f"the input; columns {facts.found.columns.why}")
    yield RecipeLine(1, "summary_column", columns[1], "the output")
    languages, why = facts.languages, facts.why
    yield RecipeLine(1, "source_lang", languages["source_lang"], why["source_lang"])
    if facts.translates:
        yield RecipeLine(1, "target_lang", languages["target_lang"], why["target_lang"])
    else:
        yield RecipeLine(1, "target_lang", languages["source_lang"], "the same: summaries, not translations")


def _batch(batch: BatchSize, sizes: Numbers, of: str) -> Iterator[RecipeLine]:
    room = (
        f"what fits into {sizes.available_bytes / 2**30:.1f} GiB" if batch.accumulated > 1 else f"{of} of like length"
    )
    yield RecipeLine(1, "per_device_train_batch_size", batch.documents, room)
    whole = batch.documents * batch.accumulated
    yield RecipeLine(1, "gradient_accumulation_steps", batch.accumulated, f"so that a step is made of {whole} {of}")


def _covered(cut: float, of: str, what: str) -> str:
    return f"{cut:.1%} of the {of} are longer, and {what}" if cut else f"all {of} fit"


def _rate(facts: Facts) -> RecipeLine:
    why = f"usual for {facts.parameters / 1e6:,.0f} million parameters"
    return RecipeLine(
        1, "learning_rate", facts.sizes.learning_rate, why + ", and LoRA" * ("adapter" in facts.sizes.saving.why)
    )


def _finetune(facts: Facts) -> Iterator[RecipeLine]:
    sizes = facts.sizes
    minutes = f"{facts.wishes.minutes:g} minutes for all arms and seeds"
    yield RecipeLine(0, "finetune", None, "the same in all arms; the best checkpoint is kept")
    yield RecipeLine(1, "budget", {"epochs": sizes.epochs}, f"about {sizes.steps:,} steps, by {minutes}")
    yield _rate(facts)
    yield from _batch(sizes.tuning, sizes, "pairs")
    yield RecipeLine(
        1, "max_source_length_tokens", sizes.source.tokens, _covered(sizes.source.cut, "inputs", "cut off")
    )
    yield RecipeLine(
        1, "max_target_length_tokens", sizes.target.tokens, _covered(sizes.target.cut, "outputs", "cut off")
    )
    for key, value in sizes.saving.settings.items():
        yield RecipeLine(1, key, value, sizes.saving.why[key])


def _evaluate(facts: Facts) -> Iterator[RecipeLine]:
    sizes = facts.sizes
    yield RecipeLine(0, "evaluate", None, "scores, beside a baseline that needs no model")
    yield RecipeLine(1, "max_source_length_tokens", sizes.source.tokens, "as in fine-tuning")
    yield RecipeLine(1, "max_new_tokens", sizes.target.tokens, "as long as the longest output that is trained on")
    yield RecipeLine(1, "num_beams", 4, "the usual search; 1 is quicker, and a little worse")
    yield RecipeLine(1, "per_device_eval_batch_size", sizes.decoded, "documents decoded at a time")
    if sizes.samples:
        yield RecipeLine(1, "max_samples", sizes.samples, "more would take too much of the time; null scores all")
    why = "the baseline: as many first tokens as the median output has"
    lead = (0, "the baseline: the copied source") if facts.translates else (sizes.median_target, why)
    yield RecipeLine(1, "lead_tokens", *lead)


def _time(minutes: float) -> str:
    return f"{60 * minutes:.2g} seconds" if minutes < 1 else f"{minutes:.2g} minutes"


def _adaptation(facts: Facts) -> Iterator[RecipeLine]:
    sizes = facts.sizes
    spent = (
        f"of each arm, for a fair comparison: about {_time(sizes.arm_minutes)} here, {sizes.passes:.2g} times the text"
    )
    yield RecipeLine(0, "adaptation_budget", {"flops": sizes.flops}, spent)
    yield RecipeLine(0, "adapt_target", None, "the target restores spoilt plain text (denoising)")
    yield _rate(facts)
    yield from _batch(sizes.adapting, sizes, "documents")
    yield RecipeLine(1, "max_length_tokens", sizes.text.tokens, _covered(sizes.text.cut, "documents", "cut in pieces"))
    for key, value in sizes.saving.settings.items():
        yield RecipeLine(1, key, value, sizes.saving.why[key])


def _arms(facts: Facts) -> Iterator[RecipeLine]:
    yield RecipeLine(0, "arms", None, "what is compared")
    yield RecipeLine(1, "plain", {"adapt_target": None}, "fine-tuning alone: what reading the text is worth")
    yield RecipeLine(1, "direct", None, "without the source: what the detour has to beat")
    yield RecipeLine(
        2, "transfer", {"mode": "recentre"}, "mends rows that the target never learned; that alone helps much"
    )
    yield RecipeLine(1, "detour", None, "through the source")
    why = "puts the source's rows there, unadapted: that was best so far (docs/results.md)"
    yield RecipeLine(2, "transfer", {"mode": "repair"}, why)


def _verdict(facts: Facts) -> Iterator[RecipeLine]:
    yield RecipeLine(0, "verdict", None, "does the detour help?")
    yield RecipeLine(1, "treatment", "detour", "the arm in question")
    yield RecipeLine(1, "control", "direct", "the arm that it has to beat, at the same cost")
    if facts.translates:
        yield RecipeLine(1, "metrics", ["bleu", "chrf++"], "beside the loss, on which the verdict rests")
