"""Stage 3: sequence-to-sequence fine-tuning of an mBART on labelled pairs."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from transformers import set_seed

from polygraft import processes
from polygraft.data.dataset import pair_codes, pair_dataset, read_pairs
from polygraft.models import adapters, checkpoints, graft
from polygraft.models.recorded import record
from polygraft.models.trimming import full_ids, restore, trim
from polygraft.models.unseen import quieten_others, unseen_mass
from polygraft.objectives.seq2seq import Seq2Seq
from polygraft.settings import Finetune, PairData
from polygraft.training.train import train


def run(settings: Finetune, model: str, pairs: PairData, seed: int, out_dir: Path) -> dict[str, Any]:
    """Fine-tune `model` on `pairs`, keep the checkpoint with the lowest development loss; see `training.train`."""
    set_seed(seed)
    with processes.together():
        network, full_tokenizer = checkpoints.load_seq2seq(model), checkpoints.load_tokenizer(model)
        splits = read_pairs(pairs, seed)
        read, languages = map(set, pair_codes(splits[0], pairs, full_tokenizer))
        record(network, full_tokenizer, read, languages)
        checkpoints.rehearse(network, full_tokenizer, out_dir, languages)
        tokenizer = full_tokenizer
        if settings.trim_vocabulary:
            columns = (pairs.text_column, pairs.summary_column)
            tokenizer = trim(network, tokenizer, [row[c] for rows in splits for row in rows for c in columns])
        limit = checkpoints.max_positions(network)
        source, target = settings.max_source_length_tokens, min(settings.max_target_length_tokens, limit)
        source = source if graft.is_graft(network) else min(source, limit)
        dataset = partial(pair_dataset, data=pairs, max_source=source, max_target=target)
        train_data, eval_data = (dataset(rows, tokenizer=tokenizer) for rows in splits)
        graft.assert_reads(network, (len(item["input_ids"]) for data in (train_data, eval_data) for item in data.items))
        objective, eval_objective = Seq2Seq(tokenizer, settings.label_smoothing_factor), Seq2Seq(tokenizer)
        lora = adapters.prepare(network, settings)
    result = train(
        network, tokenizer, settings, objective, eval_objective, (train_data, eval_data),
        seed=seed, out_dir=out_dir, keep_best=True,
    )  # fmt: skip
    result |= adapters.finish(network, lora, out_dir)
    if settings.trim_vocabulary:
        network = restore(network, tokenizer, checkpoints.load_seq2seq(model), full_tokenizer)
        held_out = dataset(splits[1], tokenizer=full_tokenizer)
        mass = unseen_mass(tokenizer, [row[pairs.summary_column] for row in splits[0]])
        kept = full_ids(tokenizer, full_tokenizer)
        result |= quieten_others(network, kept, Seq2Seq(full_tokenizer), held_out, mass)
    checkpoints.save(network, full_tokenizer, out_dir, languages)
    return result
