"""One candidate: what is known of it without its weights, and what its tokenizer makes of the text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from transformers import PreTrainedConfig

from polygraft.checks.memory import parameters_of
from polygraft.data.languages import language_codes, match_code
from polygraft.errors import CheckpointError, DataError
from polygraft.models import checkpoints
from polygraft.models.vocabulary import token_counts
from polygraft.publishing.licences import licence
from polygraft.ranking.text import LanguageText, count_scripts
from polygraft.scoring.tokens import UnicodeTokenizer

Role = Literal["source", "target"]
MAX_TOKENS = 256  # of a piece that a model reads, special tokens included


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A checkpoint's configuration and tokenizer; `parameters` count a tied matrix once."""

    name: str
    role: Role
    config: PreTrainedConfig
    tokenizer: Any
    parameters: int
    licence: str | None

    @property
    def room(self) -> int:
        """Tokens of text that it reads at once."""
        positions = getattr(self.config, "max_position_embeddings", None)
        return min(MAX_TOKENS, checkpoints.positions_of(self.config) if positions else MAX_TOKENS) - 2

    @property
    def seems_headless(self) -> bool:
        """Whether its configuration names a bare encoder; only loading it tells for certain."""
        return all(name.endswith("Model") for name in self.config.architectures or [""])

    @property
    def body_parameters(self) -> int:
        """Those that work on every token, roughly: all but the embedding matrix."""
        return max(1, self.parameters - self.config.vocab_size * self.config.hidden_size)


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """What a candidate's tokenizer makes of one language.

    Attributes:
        tokens_per_word: words as ROUGE counts them here; characters of scripts without spaces are words of their own.
        characters_per_token: of the text, spaces included.
        unknown_share: of its tokens that are <unk>.
        known_letters: share of the letters of each of its main scripts that are not part of an <unk>.
        code: the target's code of the language, None where it has none; sources need none.
    """

    language: str
    tokens_per_word: float
    characters_per_token: float
    unknown_share: float
    known_letters: dict[str, float]
    code: str | None


def open_candidate(name: str, role: Role) -> Candidate:
    """Open a checkpoint as far as configuration, tokenizer and model card go.

    Raises:
        CheckpointError: no such checkpoint, or not one of that role.
    """
    config = checkpoints.source_config(name) if role == "source" else checkpoints.target_config(name)
    try:
        parameters = parameters_of(config)
    except ValueError:
        kind = f"is a '{config.model_type}' model, of which transformers has no masked language model"
        raise CheckpointError(f"{name}: {kind}. Give an encoder of the kind of XLM-R or BERT.") from None
    tokenizer = checkpoints.load_tokenizer(name)
    return Candidate(
        name=name, role=role, config=config, tokenizer=tokenizer, parameters=parameters, licence=licence(name)
    )


def cover(candidate: Candidate, text: LanguageText) -> tuple[Coverage, np.ndarray]:
    """Tokenize a language's text; return what came of it, and the count of each row's token (int64 [V])."""
    tokenizer = candidate.tokenizer
    counts = token_counts(tokenizer, text.counted, candidate.config.vocab_size)
    words = sum(len(UnicodeTokenizer().tokenize(one)) for one in text.counted)
    tokens = max(1, int(counts.sum()))
    unknown = int(counts[tokenizer.unk_token_id]) if tokenizer.unk_token_id is not None else 0
    known = _known_letters(tokenizer, text) if unknown else dict.fromkeys(text.scripts, 1.0)
    coverage = Coverage(
        language=text.language,
        tokens_per_word=tokens / max(1, words),
        characters_per_token=sum(map(len, text.counted)) / tokens,
        unknown_share=unknown / tokens,
        known_letters=known,
        code=language_code(candidate, text.language),
    )
    return coverage, counts


def language_code(candidate: Candidate, language: str) -> str | None:
    """Return a target's code of a language, None where it has none."""
    try:
        return match_code(language, language_codes(candidate.tokenizer)) if candidate.role == "target" else None
    except DataError:
        return None


def _known_letters(tokenizer: Any, text: LanguageText) -> dict[str, float]:
    encoded = tokenizer(text.counted, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    unknown, lost = tokenizer.unk_token_id, []
    for one, ids, offsets in zip(text.counted, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        lost += [one[start:end] for row, (start, end) in zip(ids, offsets, strict=True) if row == unknown]
    before, after = count_scripts(text.counted), count_scripts(lost)
    return {script: 1 - after[script] / before[script] for script in text.scripts}
