"""What `polygraft init` is told: files, models, and whatever the user would rather say than have found out."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PositiveFloat
from pydantic_core import PydanticCustomError

from polygraft.settings import Files, Settings

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def read_bytes(value: Any) -> Any:
    """Return a size in bytes: 16GiB, 24 GB, 8e9."""
    found = re.fullmatch(r"([\d.]+(?:e\d+)?)\s*([KMGT]?I?)B?", str(value).strip().upper().replace("E", "e"))
    try:
        amount = float(found[1]) * UNITS[found[2]] if found else 0.0
    except ValueError:
        amount = 0.0
    if amount < 1:
        raise PydanticCustomError("size", "must be a size such as 16GiB or 24GB")
    return amount


Size = Annotated[float, BeforeValidator(read_bytes, json_schema_input_type=str)]


class Wishes(Settings):
    """What a recipe is to be made of."""

    pairs: Files | None = None
    """Labelled pairs: texts and summaries, or texts and translations. Where there are no test pairs, some of them are
    written to files of their own, beside the recipe."""
    text: Files | None = None
    """Plain text in the language or of the subject that matters; without it, the inputs of the pairs."""
    validation_file: Files | None = None
    """Pairs that choose the best checkpoint; without them, some of the others."""
    test_file: Files | None = None
    """Pairs that are scored, from other documents than those trained on; without them, some of the others."""
    source: str | None = None
    """The masked language model whose rows are transferred: hub name, folder, or polygraft/nano-xlmr."""
    target: str | None = None
    """The mBART that is fine-tuned: hub name, folder, or polygraft/nano-mbart."""
    text_column: str | None = None
    """The pairs' column of the input; without it, the one with such a name, or the longer one."""
    summary_column: str | None = None
    """The pairs' column of the output: the summary or the translation."""
    family_column: str | None = None
    """The column that says which pairs belong together and must not be parted when test pairs are set apart."""
    lang: str | None = None
    """Language of the plain text; without it, what the text looks like."""
    source_lang: str | None = None
    """Language of the pairs' input; without it, what the input looks like."""
    target_lang: str | None = None
    """Language of the pairs' output; without it, what the output looks like."""
    minutes: PositiveFloat = 60.0
    """How long the whole study may train on this machine: all arms and all seeds together."""
    seeds: Annotated[int, Field(ge=1, le=20)] = 3
    """How often everything is run; 3 are the least for a verdict, 5 are wanted for a claim."""
    device_memory: Size | None = None
    """Memory to fit into, such as 16GiB; without it, what is free on this machine."""
    name: str | None = None
    """What the recipe is called, and its folder of results; without it, what its file is called."""
