"""Strangers' files: whatever a library makes of broken ones is one error, and so are values that no model can have."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pickle import UnpicklingError
from typing import Any

from polygraft.errors import CheckpointError, PolygraftError, is_out_of_memory, is_panic

REMEDY = "Give a folder with config.json, weights and a tokenizer, a hub name, or a bundled polygraft/… name."


@contextmanager
def reading(name: str, what: str, remedy: str = REMEDY) -> Iterator[None]:
    """Turn whatever is raised while a checkpoint's files are read into a CheckpointError with its first line.

    Errors on purpose, want of memory and interruptions stay what they are.
    """
    try:
        yield
    except UnpicklingError as error:
        raise CheckpointError(f"{name}: its weights hold more than tensors, so they are not read. {remedy}") from error
    except BaseException as error:
        ours = isinstance(error, PolygraftError) or is_out_of_memory(error)
        if ours or not (isinstance(error, Exception) or is_panic(error)):
            raise
        offline = " HF_HUB_OFFLINE is set, so the hub was not asked." if os.environ.get("HF_HUB_OFFLINE") == "1" else ""
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        if isinstance(error, KeyError | AttributeError | TypeError):
            reason = f"{type(error).__name__}: {reason}"
        raise CheckpointError(f"{name}: cannot load its {what}: {reason}.{offline} {remedy}") from error


def assert_sound(content: Mapping[str, Any], rows: int | None, name: str, what: str) -> None:
    """Refuse a configuration with a probability, a switch or a token id that no model can have.

    transformers takes both as they are; they would fail in the middle of training or decoding, or do so silently.

    Args:
        content: a configuration as a dictionary, with those of its parts inside.
        rows: the number of token ids; None to leave ids alone, of which those that nothing uses may be anything.
    """
    for key, value in ((str(key), value) for key, value in content.items() if value is not None):
        if key.endswith(("dropout", "dropout_prob", "layerdrop")):
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
                raise _unsound(name, what, key, value, "a probability, from 0 to 1")
        elif key.startswith("output_"):
            if not isinstance(value, bool):
                raise _unsound(name, what, key, value, "true or false")
        elif key.endswith("_token_id"):
            ids = value if isinstance(value, list) else [value]
            if rows is not None and not (ids and all(type(one) is int and 0 <= one < rows for one in ids)):
                raise _unsound(name, what, key, value, f"the id of a token, from 0 to {rows - 1}")
        elif isinstance(value, Mapping) and "model_type" in value:  # not the settings of tasks, which nothing reads
            assert_sound(value, rows and value.get("vocab_size", rows), name, what)


def _unsound(name: str, what: str, key: str, value: Any, wanted: str) -> CheckpointError:
    shown = repr(value)[:60]
    return CheckpointError(f"{name}: its {what} has {key} = {shown}, but that has to be {wanted}. Mend that file.")
