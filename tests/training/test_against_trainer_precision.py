"""Gradient checkpointing and label smoothing against transformers' own Trainer: the same data, in the same order."""

from __future__ import annotations

import copy
import itertools
import json

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

from polygraft.models import adapters
from polygraft.objectives.mlm import MaskedLM
from polygraft.objectives.noise import Noise
from polygraft.objectives.seq2seq import Seq2Seq
from polygraft.settings import Budget, Finetune, Lora
from polygraft.training.train import train

STEPS, ACCUMULATED = 6, 2
HOW = {"learning_rate": 5e-3, "lr_scheduler_type": "constant", "weight_decay": 0.01, "max_grad_norm": 0.5}


class Rows:
    """Sources and labels of unlike lengths, so that batches are padded on both sides."""

    def __init__(self, count):
        random = np.random.default_rng(count)
        sizes = random.integers(4, 30, (count, 2))
        self.items = [{"input_ids": random.integers(5, 200, s).tolist(), "labels": random.integers(5, 200, t).tolist()}
                      for s, t in sizes]  # fmt: skip
        self.lengths = sizes

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


class Texts(Rows):
    def __init__(self, count):
        super().__init__(count)
        self.items = [{"input_ids": np.array(item["input_ids"])} for item in self.items]
        self.lengths = self.lengths[:, :1]


def plain_trainer(model, batches, smoothing, out, checkpointing):
    """Loss by step of transformers' Trainer on these batches, and the weights that it ends with."""

    class Plain(Trainer):
        def get_train_dataloader(self):
            return DataLoader(batches, batch_size=None)

    arguments = TrainingArguments(
        output_dir=str(out), max_steps=len(batches), adam_beta2=0.98, adam_epsilon=1e-6, logging_steps=1,
        gradient_checkpointing=checkpointing, gradient_checkpointing_kwargs={"use_reentrant": False},
        label_smoothing_factor=smoothing, save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True, **HOW,
    )  # fmt: skip
    trainer = Plain(model=model, args=arguments, train_dataset=Rows(1))
    trainer.train()
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


def ours(model, tokenizer, objective, validation, data, out, **how):
    """Loss by step of polygraft's training, and the rows that each step read."""
    read, collate = [], objective.collate
    objective.collate = lambda rows: (read.append(rows), collate(rows))[1]
    settings = Finetune(
        **HOW, warmup_steps=0, precision="fp32", budget=Budget(steps=STEPS), per_device_train_batch_size=4,
        gradient_accumulation_steps=ACCUMULATED, **how,
    )  # fmt: skip
    train(model, tokenizer, settings, objective, validation, data, seed=0, out_dir=out)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line], read


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("smoothing", "checkpointing", "lora"), [(0.0, True, False), (0.1, False, False), (0.3, True, True)]
)
def test_seq2seq(tiny_mbart, mbart_tokenizer, tmp_path, smoothing, checkpointing, lora):
    """Two batches of 4 that are accumulated here are one of 8 there."""
    if lora:
        adapters.prepare(tiny_mbart, Lora(r=4))
    plain, start = copy.deepcopy(tiny_mbart), copy.deepcopy(tiny_mbart.state_dict())
    objective = Seq2Seq(mbart_tokenizer, smoothing)
    losses, read = ours(
        tiny_mbart, mbart_tokenizer, objective, Seq2Seq(mbart_tokenizer), (Rows(40), Rows(4)), tmp_path,
        gradient_checkpointing=checkpointing,
    )  # fmt: skip
    pad = DataCollatorForSeq2Seq(mbart_tokenizer, model=plain)
    steps = [[*itertools.chain(*read[at : at + ACCUMULATED])] for at in range(0, STEPS * ACCUMULATED, ACCUMULATED)]
    batches = [pad([dict(row) for row in rows]) for rows in steps]
    theirs = plain_trainer(plain, batches, smoothing, tmp_path / "plain", checkpointing)
    assert len(losses) == len(theirs) == STEPS
    assert losses == pytest.approx(theirs, rel=2e-6)  # measured: 1.3e-7
    moved = max(float((plain.state_dict()[name] - start[name]).abs().max()) for name in start)
    apart = max(float((plain.state_dict()[name] - tiny_mbart.state_dict()[name]).abs().max()) for name in start)
    assert moved > 5e-3
    assert apart < 0.002 * moved  # measured: 0.0002


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("checkpointing", [True, False])
def test_mlm(tiny_xlmr, xlmr_tokenizer, tmp_path, checkpointing):
    """The packed encoder, whose last layer is computed where a token was chosen alone."""
    plain = copy.deepcopy(tiny_xlmr)
    objective = MaskedLM(xlmr_tokenizer, 0.15, Noise(0))
    made, collate = [], objective.collate
    objective.collate = lambda rows: (made.append(collate(rows)), made[-1])[1]
    losses, _ = ours(
        tiny_xlmr, xlmr_tokenizer, objective, MaskedLM(xlmr_tokenizer, 0.15, Noise(1, fixed=True)),
        (Texts(40), Texts(4)), tmp_path, gradient_checkpointing=checkpointing,
    )  # fmt: skip

    def joined(a, b):
        width = max(a["input_ids"].shape[1], b["input_ids"].shape[1])
        fill = {"input_ids": 1, "attention_mask": 0, "labels": -100}
        widened = [[torch.nn.functional.pad(x[name], (0, width - x[name].shape[1]), value=fill[name]) for x in (a, b)]
                   for name in fill]  # fmt: skip
        return {name: torch.cat(both) for name, both in zip(fill, widened, strict=True)}

    batches = [joined(*made[at : at + ACCUMULATED]) for at in range(0, STEPS * ACCUMULATED, ACCUMULATED)]
    theirs = plain_trainer(plain, batches, 0.0, tmp_path / "plain", checkpointing)
    assert losses == pytest.approx(theirs, rel=2e-6)  # measured: 1.3e-7
    assert theirs[-1] < theirs[0] - 0.1
