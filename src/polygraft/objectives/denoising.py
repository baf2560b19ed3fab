"""mBART's denoising task (Liu et al. 2020): sentences shuffled, spans replaced by one <mask>, the original restored."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from polygraft.data.layout import IGNORED
from polygraft.objectives.noise import Noise
from polygraft.objectives.seq2seq import Seq2Seq, make_batch, token_losses

SENTENCE_ENDS = ".!?…。！？"


class SpanDenoising(Seq2Seq):
    """Span infilling with Poisson lengths, sentence permutation, and the loss over the whole original."""

    noise: Noise

    def __init__(
        self, tokenizer: Any, *, mask_ratio: float, poisson_lambda: float, permute_sentences: bool, noise: Noise
    ) -> None:
        super().__init__(tokenizer)
        self.mask, self.noise = tokenizer.mask_token_id, noise
        self.ratio, self.poisson_lambda, self.permute = mask_ratio, poisson_lambda, permute_sentences
        pieces = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
        self.ends_sentence_V = np.array([piece[-1:] in SENTENCE_ENDS and piece != "" for piece in pieces])

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Return a sequence-to-sequence batch plus `masked` [B, T] bool: labels whose token the input lacks."""
        generator = np.random.default_rng(self.noise.next_seed())
        sources, labels, masked = [], [], []
        for row in rows:
            noisy, missing = self.corrupt(row["input_ids"], generator)
            sources.append(self.layout.wrap(noisy, row["language"]))
            labels.append(self.layout.wrap(row["input_ids"].tolist(), row["language"]))
            masked.append(missing)
        batch = make_batch(self.layout, sources, labels)
        batch["masked"] = torch.zeros(batch["labels"].shape, dtype=torch.bool)
        offset = int(self.layout.language_first)
        for row_index, missing in enumerate(masked):
            batch["masked"][row_index, offset : offset + len(missing)] = torch.from_numpy(missing)
        return batch

    def corrupt(self, ids_T: np.ndarray, generator: np.random.Generator) -> tuple[list[int], np.ndarray]:
        """Return the noisy input and, for each original token, whether the input lacks it ([T] bool)."""
        order_T = self.shuffled(ids_T, generator) if self.permute else np.arange(len(ids_T))
        starts, lengths = self.spans(len(ids_T), generator)
        missing_T = np.zeros(len(ids_T), dtype=bool)
        noisy: list[int] = []
        place = 0
        for start, length in zip(starts, lengths, strict=True):
            noisy += [*ids_T[order_T[place:start]].tolist(), self.mask]
            missing_T[order_T[start : start + length]] = True
            place = start + length
        return noisy + ids_T[order_T[place:]].tolist(), missing_T

    def shuffled(self, ids_T: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Return the positions of the tokens [T] after the sentences changed places."""
        ends = np.flatnonzero(self.ends_sentence_V[ids_T]) + 1
        sentences = [s for s in np.split(np.arange(len(ids_T)), ends) if len(s)]
        return np.concatenate([sentences[i] for i in generator.permutation(len(sentences))])

    def spans(self, length: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw non-adjacent spans that hold `mask_ratio` of the tokens: starts and lengths, in order.

        Lengths are Poisson; a span of length 0 inserts a <mask> where nothing is missing, as in BART.
        """
        wanted = max(1, round(length * self.ratio))
        lengths: list[int] = []
        while (total := sum(lengths)) < wanted:
            lengths.append(min(int(generator.poisson(self.poisson_lambda)), wanted - total))
        kept = length - wanted
        lengths = [n for n in lengths if n > 0][: kept + 1] if len(lengths) > kept + 1 else lengths
        # Distinct gaps between kept tokens: two spans never touch, so each <mask> stands for one span.
        gaps = np.sort(generator.choice(kept + 1, size=len(lengths), replace=False))
        sizes = np.asarray(lengths, dtype=np.int64)
        return gaps + np.concatenate([[0], np.cumsum(sizes)[:-1]]), sizes

    def loss(self, model: Any, *, masked: Tensor | None = None, **batch: Tensor) -> Tensor:
        """Return the summed cross-entropy of the whole original (`masked` only serves evaluation)."""
        return super().loss(model, **batch)

    @staticmethod
    def tokens(batch: dict[str, Tensor]) -> Tensor:
        """Count the real tokens of the originals."""
        return (batch["labels"] != IGNORED).sum()

    def eval_sums(self, model: Any, batch: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Return loss and count over all labels, and over the tokens that the input lacks: copied ones hide those."""
        masked_BT = batch["masked"]
        losses_BT = token_losses(model, {name: tensor for name, tensor in batch.items() if name != "masked"})
        return {
            "eval_loss": (losses_BT.sum(), (batch["labels"] != IGNORED).sum()),
            "eval_masked_loss": ((losses_BT * masked_BT).sum(), masked_BT.sum()),
        }
