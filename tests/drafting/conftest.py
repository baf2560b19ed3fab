"""Estimates that take no time: of a machine on which everything is linear, made up here."""

from __future__ import annotations

from typing import Any

import pytest

from polygraft.checks.needs import SAFE_SHARE, Need
from polygraft.checks.stages import Stages

MB = 10**6
WEIGHTS = {(): 4000 * MB, ("trim_vocabulary",): 2000 * MB, ("adapter", "trim_vocabulary"): 500 * MB}
PER_DOCUMENT = 200 * MB
SECONDS_PER_PAIR, SECONDS_PER_TEXT, SECONDS_PER_OUTPUT, FLOPS_PER_TEXT = 0.05, 0.02, 0.1, 1e9


class Machine(Stages):
    """As `checks.stages.Stages`; tokens are real, memory and time are not."""

    def text_stage(self, stage: str, settings: Any, model: str, text: Any) -> Need:
        number = self.tokens(model, text.train_file, (text.text_column,))[1]
        return self._need(settings, number * SECONDS_PER_TEXT, number * FLOPS_PER_TEXT)

    def finetune(self, settings: Any, model: str, pairs: Any) -> Need:
        number = self.tokens(model, pairs.train_file, tuple(pairs.texts))[1]
        return self._need(settings, min(number, pairs.max_train_samples or number) * SECONDS_PER_PAIR, 1.0)

    def evaluate(self, settings: Any, model: str, pairs: Any) -> Need:
        seconds = settings.max_samples * SECONDS_PER_OUTPUT
        return _need(memory_bytes=settings.per_device_eval_batch_size * PER_DOCUMENT, seconds=seconds)

    def _need(self, settings: Any, seconds: float, flops: float) -> Need:
        fixed = WEIGHTS[tuple(key for key in ("adapter", "trim_vocabulary") if getattr(settings, key))]
        fitting = int((SAFE_SHARE * self.available_bytes - fixed) // PER_DOCUMENT)
        size = fixed + settings.per_device_train_batch_size * PER_DOCUMENT
        proposed = 2 ** (fitting.bit_length() - 1) if fitting > 0 else None
        return _need(memory_bytes=size, seconds=seconds, flops=flops, proposed_batch_size=proposed)


def _need(**figures: Any) -> Need:
    return Need(**{"stage": "", "parameters": 0, "disk_bytes": 0, "disk_peak_bytes": 0, "flops": None} | figures)


@pytest.fixture
def without_checkpointing(monkeypatch):
    """Three steps of saving memory, as the machine above knows them."""
    from polygraft.drafting import sizes

    known = [way for way in sizes.SAVINGS if "gradient_checkpointing" not in way.settings]
    monkeypatch.setattr(sizes, "SAVINGS", known)


@pytest.fixture
def quick(monkeypatch, without_checkpointing):
    """Drafts are made for the machine above."""
    from polygraft.drafting import making

    monkeypatch.setattr(making, "Stages", lambda opened, memory: Machine(opened, memory or 10**11))
