"""Stage 3: sequence-to-sequence fine-tuning of an mBART on labelled pairs."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from polygraft.data.dataset import PairDataset, pair_codes, pair_dataset, read_pairs
from polygraft.models import checkpoints, graft
from polygraft.objectives.seq2seq import Seq2Seq
from polygraft.settings import Finetune, PairData, Running
from polygraft.stages.train_stage import Lesson, train_stage
from polygraft.training.sample import DecodedSample


def run(
    settings: Finetune, model: str, pairs: PairData, seed: int, out_dir: Path, running: Running = Running()
) -> dict[str, Any]:
    """Fine-tune `model` on `pairs`, keep the checkpoint that is best on the development pairs; see `training.train`."""

    def dataset(rows: Any, tokenizer: Any, network: Any) -> PairDataset:
        limit = checkpoints.max_positions(network)
        source, target = settings.max_source_length_tokens, min(settings.max_target_length_tokens, limit)
        source = source if graft.is_graft(network) else min(source, limit)
        made = pair_dataset(rows, pairs, tokenizer, source, target)
        graft.assert_reads(network, (len(item["input_ids"]) for item in made.items))
        return made

    lesson = Lesson(
        load=checkpoints.load_seq2seq,
        read=partial(read_pairs, pairs, running.seed_of_data(seed)),
        languages=lambda rows, tokenizer: pair_codes(rows, pairs, tokenizer),
        source=pairs,
        dataset=dataset,
        objectives=lambda tokenizer: (Seq2Seq(tokenizer, settings.label_smoothing_factor), Seq2Seq(tokenizer)),
        task="seq2seq",
        sample=partial(DecodedSample.of, settings, pairs),
    )
    return train_stage(lesson, settings, model, seed, out_dir, running)
