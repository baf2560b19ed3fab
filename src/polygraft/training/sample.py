"""A sample of the validation pairs, decoded and scored while training, to tell the best checkpoint by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, get_args

from polygraft.data.dataset import pair_codes
from polygraft.inference.generate import cuts_unsaid, decode
from polygraft.scoring.metrics import METRICS
from polygraft.scoring.predictions import Prediction
from polygraft.settings import BestMetric, Decoding, Finetune, PairData

SCORES = tuple(name for name in get_args(BestMetric) if name != "loss")


@dataclass(frozen=True)
class DecodedSample:
    """Pairs that are decoded at every evaluation, and how: as `evaluate` does, but for beams and length."""

    rows: Sequence[dict[str, Any]]
    pairs: PairData
    tokenizer: Any
    decoding: Decoding

    @classmethod
    def of(
        cls, settings: Finetune, pairs: PairData, rows: Sequence[dict[str, Any]], tokenizer: Any
    ) -> DecodedSample | None:
        """Take the sample from the validation rows, evenly spread; None where the best is told by the loss."""
        if settings.metric_for_best_model == "loss":
            return None
        count = min(settings.generation_max_samples, len(rows))
        chosen = [rows[place * len(rows) // count] for place in range(count)]
        decoding = Decoding(
            max_source_length_tokens=settings.max_source_length_tokens,
            num_beams=settings.generation_num_beams,
            max_new_tokens=settings.generation_max_length - 1,  # transformers' max_length counts the start token
        )
        return cls(chosen, pairs, tokenizer, decoding)

    def scores(self, model: Any, heed: Callable[[], None]) -> dict[str, float]:
        """Return eval_<name> of each of SCORES, 0 to 100; `heed` is called after every batch."""
        texts = [row[self.pairs.text_column] for row in self.rows]
        sources, targets = pair_codes(self.rows, self.pairs, self.tokenizer)
        with _plain_forward(model), cuts_unsaid():  # training cuts them, too
            outputs = decode(model, self.tokenizer, texts, sources, targets, self.decoding, lambda *_: heed())
        predictions = [
            Prediction(
                id=row["id"], lang=code, source=text, reference=row[self.pairs.summary_column], prediction=output,
                lead="", loss_nats=0.0, reference_tokens=1,
            )
            for row, code, text, output in zip(self.rows, targets, texts, outputs, strict=True)
        ]  # fmt: skip
        sums = {name: METRICS[name].statistics(predictions).sum(axis=0) for name in SCORES}
        return {f"eval_{name}": float(METRICS[name].from_sums(summed)) for name, summed in sums.items()}


@contextmanager
def _plain_forward(model: Any) -> Iterator[None]:
    """Give a model in training, whose `forward` is the loss, its own back: some kinds are decoded by it."""
    training = vars(model).pop("forward", None)
    try:
        yield
    finally:
        if training is not None:
            model.forward = training
