"""The languages that a checkpoint was trained on: written down by training, obeyed by `generate` and `evaluate`.

They lie in its config.json, for any number of languages, and where plain transformers looks for them if there is one:
what the model writes in the generation configuration (`checkpoints.save`), what it reads in the tokenizer's `src_lang`.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from polygraft.data.languages import language_codes, match_code
from polygraft.data.layout import is_cc25
from polygraft.errors import RecipeError
from polygraft.models.checkpoints import load_config, load_generation_config
from polygraft.settings import PairData

KEY = "polygraft_languages"


class Languages(NamedTuple):
    """The tokenizer's codes of the languages that a checkpoint reads and writes; none where nothing says so.

    `directions` say which of several targets follows from which source; checkpoints of one target have none.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    directions: tuple[tuple[str, str], ...] = ()


def record(
    model: Any,
    tokenizer: Any,
    sources: Collection[str],
    targets: Collection[str],
    directions: Collection[tuple[str, str]] = (),
) -> None:
    """Write into a model's configuration and its tokenizer which languages it has learned to read and to write."""
    sides = {"source": list(sources), "target": list(targets)}
    for codes in sides.values():
        codes.sort(key=tokenizer.convert_tokens_to_ids)
    pairs = {"directions": sorted(map(list, directions))} if len(targets) > 1 and directions else {}
    setattr(model.config, KEY, sides | pairs)
    for name, codes in zip(("src_lang", "tgt_lang"), sides.values(), strict=True):
        if len(codes) == 1 and codes[0] in tokenizer.lang_code_to_id:  # with another one its class does not load
            setattr(tokenizer, name, codes[0])


def languages_of(config: Any, generation_config: Any, tokenizer: Any) -> Languages:
    """Return what a checkpoint's configurations say of its languages."""
    known = language_codes(tokenizer)
    kept = getattr(config, KEY, None) or {}
    sources, targets = (tuple(code for code in kept.get(side, ()) if code in known) for side in ("source", "target"))
    start = generation_config.decoder_start_token_id if is_cc25(tokenizer) else generation_config.forced_bos_token_id
    forced = [code for code in known if tokenizer.convert_tokens_to_ids(code) == start]
    directions = tuple(
        (source, target) for source, target in kept.get("directions", ()) if {source, target} <= {*known}
    )
    return Languages(sources, tuple(forced) or targets, directions)


def choose(
    name: str, tokenizer: Any, source: str | None, target: str | None, found: Languages | None = None
) -> tuple[str, str]:
    """Return the codes that a checkpoint is to read and to write, what it records where nothing is given; say them.

    Raises:
        RecipeError: a language that is neither given nor recorded.
        DataError: one that the tokenizer does not have.
    """
    pairs = completed(PairData(source_lang=source, target_lang=target), name, tokenizer, found)
    return str(pairs.source_lang), str(pairs.target_lang)


def recorded_in(name: str, tokenizer: Any) -> Languages:
    """Return the languages that a checkpoint records."""
    return languages_of(load_config(name), load_generation_config(name), tokenizer)


def completed(pairs: PairData, name: str, tokenizer: Any, found: Languages | None = None) -> PairData:
    """Return the settings of pairs to be scored, with what the checkpoint records where they say nothing; as `choose`.

    `found` is what is recorded, where that is known already.
    """
    chosen, said = _completed(pairs, name, language_codes(tokenizer), found or recorded_in(name, tokenizer))
    print(f"languages: {said}", file=sys.stderr, flush=True)
    return chosen


def quietly_chosen(
    name: str, codes: Sequence[str], source: str | None, target: str | None, found: Languages
) -> tuple[str, str]:
    """Return what `choose` returns, of a tokenizer that has these codes, and say nothing: for one of many requests."""
    pairs, _ = _completed(PairData(source_lang=source, target_lang=target), name, codes, found)
    return str(pairs.source_lang), str(pairs.target_lang)


def _completed(pairs: PairData, name: str, codes: Sequence[str], found: Languages) -> tuple[PairData, str]:
    """The settings with languages, and the words for them.

    A model that writes the language that it reads, whichever of several, goes on doing so; one that translates each
    language that it reads into one other, too.
    """
    source, reads = _side(name, "source", pairs.source_lang, pairs.source_lang_column, found.sources, codes)
    directions = found.directions
    if not directions and found.targets == found.sources:  # what checkpoints of before that was kept mean
        directions = tuple(zip(found.sources, found.targets, strict=True))
    unsaid = len(found.targets) > 1 and not pairs.target_lang and pairs.target_lang_column is None
    written = [target for read, target in directions if read == source]
    if unsaid and directions and all(read == target for read, target in directions):
        target, writes = source, f"{source or 'the same'} (as recorded, what it reads)"
    elif unsaid and len(written) == 1:
        target, writes = written[0], f"{written[0]} (as recorded, of what it reads)"
    else:
        target, writes = _side(name, "target", pairs.target_lang, pairs.target_lang_column, found.targets, codes)
    return pairs.model_copy(update={"source_lang": source, "target_lang": target}), f"reads {reads}, writes {writes}"


def _side(
    name: str, side: str, given: str | None, column: str | None, recorded: tuple[str, ...], codes: Sequence[str]
) -> tuple[str | None, str]:
    """One side's code (None where a column names it), and the words for it."""
    if column:
        return given, f"what column '{column}' says"
    if given:
        code = match_code(given, codes)
        odd = recorded and code not in recorded
        return code, f"{code} (given{f', but the checkpoint was tuned for {_listed(recorded)}' if odd else ''})"
    if len(recorded) == 1:
        return recorded[0], f"{recorded[0]} (recorded in the checkpoint)"
    tuned = f"it was tuned for {_listed(recorded)}" if recorded else "the checkpoint does not record it"
    what = "reads" if side == "source" else "writes"
    raise RecipeError(
        f"{name}: which language it {what} is not said, and {tuned}. Give --{side}-lang ({side}_lang in a recipe)."
    )


def _listed(codes: tuple[str, ...]) -> str:
    return " and ".join([", ".join(codes[:-1]), codes[-1]] if len(codes) > 1 else codes)
