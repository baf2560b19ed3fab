"""Stage 3: sequence-to-sequence fine-tuning of an mBART on labelled pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import set_seed

from polygraft.data.dataset import pair_dataset, read_pairs
from polygraft.models import checkpoints
from polygraft.objectives.seq2seq import Seq2Seq
from polygraft.recipe import Finetune, PairData
from polygraft.training import train


def run(settings: Finetune, model: str, pairs: PairData, seed: int, out_dir: Path) -> dict[str, Any]:
    """Fine-tune `model` on `pairs`, keep the checkpoint with the lowest development loss; see `training.train`."""
    set_seed(seed)
    tokenizer = checkpoints.load_tokenizer(model)
    network = checkpoints.load_seq2seq(model)
    limit = checkpoints.max_positions(network)
    lengths = min(settings.max_source_length_tokens, limit), min(settings.max_target_length_tokens, limit)
    train_data, eval_data = (pair_dataset(rows, pairs, tokenizer, *lengths) for rows in read_pairs(pairs, seed))
    objective, eval_objective = Seq2Seq(tokenizer, settings.label_smoothing_factor), Seq2Seq(tokenizer)
    result = train(
        network, tokenizer, settings, objective, eval_objective, (train_data, eval_data),
        seed=seed, out_dir=out_dir, keep_best=True,
    )  # fmt: skip
    languages = {item["language"] for item in train_data.items}
    checkpoints.set_output_language(out_dir, network, tokenizer, languages.pop() if len(languages) == 1 else None)
    return result
