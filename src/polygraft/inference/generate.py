"""Decode texts with an mBART: batches of like length and one target language, outputs in the order of the inputs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from polygraft.data.batching import longest_first
from polygraft.data.dataset import tokenize
from polygraft.data.layout import Layout, pad_rows
from polygraft.inference.beam_search import generate
from polygraft.models.graft import assert_reads, is_graft
from polygraft.settings import Decoding

logger = logging.getLogger(__name__)
OnProgress = Callable[[int, int], None]  # called with (done, total)


def best_device() -> torch.device:
    """Where inference runs: the first GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def max_length_tokens(model: Any, tokenizer: Any) -> int:
    """The longest input that both model and tokenizer take, special tokens included."""
    return int(min(tokenizer.model_max_length, model.config.max_position_embeddings))


def longest_source(model: Any, tokenizer: Any, settings: Decoding) -> int:
    """At how many tokens a source is cut; longer than a graft reads, so that this is refused and not done silently."""
    wanted = settings.max_source_length_tokens
    return wanted if is_graft(model) else min(wanted, max_length_tokens(model, tokenizer))


def encode_sources(tokenizer: Any, texts: Sequence[str], source_codes: Sequence[str], longest: int) -> list[list[int]]:
    """Token ids of inputs in the layout of the tokenizer's mBART family, cut with a warning to `longest` tokens."""
    layout = Layout.of(tokenizer)
    contents = tokenize(tokenizer, texts)
    if too_long := sum(len(content) > longest - 2 for content in contents):
        logger.warning(
            "%d of %d inputs are longer than %d tokens; their ends were cut off.", too_long, len(texts), longest
        )
    languages = tokenizer.convert_tokens_to_ids(list(source_codes))
    return [layout.wrap(ids[: longest - 2], code) for ids, code in zip(contents, languages, strict=True)]


def language_arguments(tokenizer: Any, target_code: str) -> dict[str, int]:
    """What `generate` needs to start in the target language.

    mBART-50 starts at </s> and is forced to the code; cc25 starts at the code itself. Batches hold one target language
    each, so that this is all there is to say: giving the code as a decoder prompt instead would shorten the generated
    length by one, and with it change the length penalty and so the order of beams against a plain `generate`.
    """
    language = tokenizer.convert_tokens_to_ids(target_code)
    if Layout.of(tokenizer).language_first:
        return {"decoder_start_token_id": tokenizer.eos_token_id, "forced_bos_token_id": language}
    return {"decoder_start_token_id": language}


def in_batches(
    texts: Sequence[str],
    sources: Sequence[list[int]],
    target_codes: Sequence[str],
    settings: Decoding,
    write: Callable[[list[list[int]], str], list[list[str]]],
    progress: OnProgress | None = None,
) -> list[list[str]]:
    """Return the outputs of each text, made in batches of like length and one target language; of a blank one blanks.

    `write` makes the outputs of each of some sources (token ids of texts) in a target language.
    """
    outputs = [[""] * settings.arguments().get("num_return_sequences", 1) for _ in texts]
    wanted = [i for i, text in enumerate(texts) if text.strip()]
    done = len(texts) - len(wanted)
    for code in sorted(set(target_codes)):
        indices = [i for i in wanted if target_codes[i] == code]
        lengths = [len(sources[i]) for i in indices]
        for places in longest_first(lengths, lambda batch: len(batch) <= settings.per_device_eval_batch_size):
            batch = [indices[place] for place in places]
            for i, written in zip(batch, write([sources[i] for i in batch], code), strict=True):
                outputs[i] = written
            done += len(batch)
            if progress:
                progress(done, len(texts))
    return outputs


@contextmanager
def cuts_unsaid() -> Iterator[None]:
    """Leave out, in the block, what is said of inputs that are cut, where it has been said before."""
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def decode(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    source_codes: Sequence[str],
    target_codes: Sequence[str],
    settings: Decoding,
    progress: OnProgress | None = None,
) -> list[str]:
    """Generate an output per text, as `decode_several` does: the best."""
    found = decode_several(model, tokenizer, texts, source_codes, target_codes, settings, progress)
    return [outputs[0] for outputs in found]


@torch.inference_mode()
def decode_several(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    source_codes: Sequence[str],
    target_codes: Sequence[str],
    settings: Decoding,
    progress: OnProgress | None = None,
) -> list[list[str]]:
    """Generate outputs per text, the best first, special tokens removed; a blank text has blank ones.

    `source_codes` and `target_codes` are the tokenizer's own codes (`uk_UA`), one per text. Equal to
    `model.generate(**tokenizer(text), forced_bos_token_id=…)` with the same settings. `progress` gets (done, total).
    """
    limit = min(settings.max_new_tokens, model.config.max_position_embeddings)
    arguments = settings.arguments() | {"max_new_tokens": limit}
    count = arguments.get("num_return_sequences", 1)
    sources = encode_sources(tokenizer, texts, source_codes, longest_source(model, tokenizer, settings))
    assert_reads(model, map(len, sources))
    model.eval()

    def write(rows: list[list[int]], target_code: str) -> list[list[str]]:
        ids_BS = pad_rows(rows, tokenizer.pad_token_id).to(model.device)
        mask_BS = (ids_BS != tokenizer.pad_token_id).long()
        generated = generate(model, ids_BS, mask_BS, **language_arguments(tokenizer, target_code), **arguments)
        written = tokenizer.batch_decode(generated, skip_special_tokens=True)
        return [written[first : first + count] for first in range(0, len(written), count)]

    return in_batches(texts, sources, target_codes, settings, write, progress)
