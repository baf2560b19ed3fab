"""What a target makes of the held-out text: removed spans to restore, its source's worth, rows that it never learned.

Every checkpoint of a recipe reads the same documents under the same noise, so that differences between two of them are
paired: what is hard for both cancels out.

D documents, V rows of the target's vocabulary.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from polygraft.data.dataset import read_text
from polygraft.data.languages import to_code
from polygraft.data.layout import Layout
from polygraft.inference.generate import best_device
from polygraft.measure.losses import denoising, mbart_task
from polygraft.measure.pieces import Piece, cut
from polygraft.models import checkpoints
from polygraft.models.graft import is_graft
from polygraft.progress import Progress
from polygraft.scoring.intervals import Ratio, ratio
from polygraft.settings import TextData
from polygraft.transfers.rows.sorting import row_health

MAX_TOKENS = 254  # of a piece, special tokens aside
LOSSES, STATES = "losses.npz", "states.npy"
STATES_TOKENS = 1024  # whose states are kept, to compare what changed them


@dataclass(frozen=True)
class HeldOut:
    """Documents that no stage trained on, [D], and the language of each as the user wrote it."""

    texts: list[str]
    languages: list[str]

    @classmethod
    def of(cls, text: TextData, seed: int, max_samples: int) -> HeldOut:
        """Draw from the validation text that the recipe's stages have with this seed, the same documents always."""
        rows = read_text(text, seed)[1]
        drawn = random.Random(1).sample(range(len(rows)), min(max_samples, len(rows)))
        wanted = np.zeros(len(rows), dtype=bool)
        wanted[drawn] = True
        found = dict(zip(sorted(drawn), rows.subset(wanted), strict=True))
        languages = [found[i][text.lang_column] if text.lang_column else text.lang or "" for i in drawn]
        return cls([found[i][text.text_column] for i in drawn], languages)


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Nats and tokens of a checkpoint per document, float64 [D].

    Attributes:
        removed: -ln p of the tokens that the noisy source lacks, given that source; `removed_tokens` of them.
        whole, other: of the whole original, reading its own noisy source, or that of another document of its language
            (NaN where there is none); of `tokens` tokens, </s> included.
    """

    languages: list[str]
    removed: np.ndarray
    removed_tokens: np.ndarray
    whole: np.ndarray
    other: np.ndarray
    tokens: np.ndarray

    def per_removed_token(self) -> Ratio:
        """The loss on removed spans. Copied tokens cost next to nothing, and would hide what was learned."""
        return ratio(self.removed, self.removed_tokens, self.languages)

    def per_token(self) -> Ratio:
        """The loss on the whole original, most of which is copied from the source."""
        return ratio(self.whole, self.tokens, self.languages)

    def reliance(self) -> Ratio | None:
        """By how much another document's source is worse, per token; None where no language has two documents."""
        paired = ~np.isnan(self.other)
        if not paired.any():
            return None
        languages = [language for language, known in zip(self.languages, paired, strict=True) if known]
        return ratio((self.other - self.whole)[paired], self.tokens[paired], languages)

    def save(self, folder: Path) -> None:
        """Write losses.npz."""
        folder.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {key: np.asarray(value) for key, value in vars(self).items()}
        np.savez(folder / LOSSES, **arrays)

    @classmethod
    def load(cls, folder: Path) -> Losses:
        """Read losses.npz."""
        with np.load(folder / LOSSES) as found:
            arrays = {key: found[key] for key in found.files}
        return cls(languages=arrays.pop("languages").tolist(), **arrays)


def run(model: str, held_out: HeldOut, out_dir: Path) -> dict[str, Any]:
    """Measure a checkpoint on the held-out text and write losses.npz, and what its encoder makes of it to states.npy.

    Returns:
        {"dead_rows": {script: rows that it never learned}, "dead_share": share of the text's tokens that have such}.
    """
    tokenizer: Any = checkpoints.load_tokenizer(model)
    network: Any = checkpoints.load_seq2seq(model).eval().requires_grad_(False)
    health = row_health(network, tokenizer, held_out.texts)
    network.to(best_device())
    room = min(MAX_TOKENS, checkpoints.max_positions(network) - 2)
    pieces = cut(tokenizer, held_out.texts, room)
    objective = mbart_task(tokenizer)
    codes = {name: tokenizer.convert_tokens_to_ids(to_code(name, tokenizer)) for name in set(held_out.languages)}
    if not is_graft(network):  # whose encoder has axes of its own
        states_ND = encoder_states(network, Layout.of(tokenizer), pieces, [codes[name] for name in held_out.languages])
        out_dir.mkdir(parents=True, exist_ok=True)
        np.save(out_dir / STATES, states_ND)
    total, done = 2 * sum(map(len, pieces)), 0
    with Progress("diagnose") as bar:

        def show(tokens: int) -> None:
            nonlocal done
            done += tokens
            bar.update(min(1.0, done / max(1, total)))

        found = denoising(network, objective, pieces, [codes[name] for name in held_out.languages], on_tokens=show)
    tokens_D = np.zeros(len(held_out.texts))
    for piece in pieces:
        tokens_D[piece.document] += len(piece) + 1
    nats = math.log(2)
    losses = Losses(
        languages=held_out.languages,
        removed=found.removed_bits * nats,
        removed_tokens=found.removed_tokens,
        whole=found.bits * nats,
        other=found.other_bits * nats,
        tokens=tokens_D,
    )
    losses.save(out_dir)
    return health


@torch.inference_mode()
def encoder_states(network: Any, layout: Layout, pieces: Sequence[Piece], codes: Sequence[int]) -> np.ndarray:
    """The encoder's last states of the first pieces' tokens, float32 [N, D]; `codes`: language by document."""
    found: list[np.ndarray] = []
    for piece in pieces:
        if sum(map(len, found)) < STATES_TOKENS:
            ids_1T = torch.tensor([layout.wrap(piece.ids.tolist(), codes[piece.document])], device=network.device)
            found.append(network.get_encoder()(input_ids=ids_1T).last_hidden_state[0].float().cpu().numpy())
    return np.concatenate(found)


def direction(start: Path, mine: Path, other: Path) -> float | None:
    """Cosine of what changed the encoder's last states from one measured checkpoint to two others, over all tokens.

    None where nothing changed them, or where one of the encoders has other axes.
    """
    try:
        before, one, two = (np.load(folder / STATES) for folder in (start, mine, other))
    except OSError:
        return None
    one, two = one - before, two - before
    size = float(np.linalg.norm(one) * np.linalg.norm(two))
    return float((one * two).sum()) / size if size else None
