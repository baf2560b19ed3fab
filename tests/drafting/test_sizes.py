"""NumberedMachine of a recipe: lengths from tokens, ways to save memory in their order, shares of the time.

The estimates are those of a machine made up here, on which everything is linear; that real estimates are used in the
same way is what test_init.py shows, where `polygraft check` passes.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from polygraft.checks.needs import SAFE_SHARE
from polygraft.drafting.sizes import SAVINGS, Numbers, Texts, learning_rate, sizes
from polygraft.drafting.wishes import Wishes, read_bytes
from polygraft.errors import RecipeError
from polygraft.settings import PairData, TextData

from .conftest import FLOPS_PER_TEXT, MB, PER_DOCUMENT, SECONDS_PER_PAIR, Machine

TEXT, PAIRS = TextData(train_file="text", lang="uk"), PairData(train_file="pairs", test_file="test", source_lang="uk")


class NumberedMachine(Machine):
    """The machine of conftest.py, with texts that are numbers alone."""

    def __init__(self, memory: int, documents: int = 500, pairs: int = 1200, lengths: list[int] | None = None) -> None:
        super().__init__({}, memory)
        self.numbers, self.lengths = {"text": documents, "pairs": pairs, "test": 200}, lengths or [98] * 50
        report = SimpleNamespace(max_positions=256, parameters=600 * MB)
        self.opened = {"mbart": SimpleNamespace(report=report)}  # type: ignore[dict-item]

    def tokens(self, model: str, file: Any, columns: tuple[str, ...]) -> tuple[list[list[list[int]]], int]:
        return [[[7] * length for length in self.lengths] for _ in columns], self.numbers[file]


def chosen(memory: int = 10**11, minutes: float = 60, seeds: int = 3, **machine: Any) -> Numbers:
    texts = Texts(TEXT, PAIRS, None, held_out=False)
    return sizes(NumberedMachine(memory, **machine), "mbart", texts, minutes, seeds)


MEMORY = {  # memory: what is saved by, documents of a batch, batches of a step
    100_000 * MB: ((), 16, 1),
    8000 * MB: ((), 8, 2),
    6000 * MB: ((), 4, 4),
    5200 * MB: (("trim_vocabulary",), 8, 2),
    3500 * MB: (("trim_vocabulary",), 4, 4),
    2000 * MB: (("adapter", "trim_vocabulary"), 4, 4),
    900 * MB: (("adapter", "trim_vocabulary"), 1, 16),
}


pytestmark = pytest.mark.usefixtures("without_checkpointing")


@pytest.mark.parametrize("memory", MEMORY)
def test_memory_is_saved_by_what_changes_least(memory):
    keys, documents, accumulated = MEMORY[memory]
    found = chosen(memory)
    assert tuple(sorted(found.saving.settings)) == keys
    assert (found.tuning.documents, found.tuning.accumulated) == (documents, accumulated)
    assert found.decoded * PER_DOCUMENT <= SAFE_SHARE * memory or found.decoded == 1


def test_what_does_not_fit_says_what_would():
    with pytest.raises(RecipeError) as caught:
        chosen(500 * MB)
    wanted = (500 + 200) / SAFE_SHARE * MB / 2**20  # the least weights and one document
    assert f"about {int(wanted) + 1:,} MiB would" in str(caught.value)
    assert f"--device-memory {int(wanted) + 1}MiB" in str(caught.value)
    assert chosen((int(wanted) + 1) * 2**20).tuning.documents == 1


def test_every_way_of_saving_says_why():
    for way in SAVINGS:
        assert way.settings.keys() == way.why.keys()
    assert next(iter(SAVINGS[-1].settings)) == "trim_vocabulary"


LENGTHS = {  # lengths without special tokens: the limit, and the share that is longer
    "all alike": ([98] * 50, 112, 0.0),
    "multiples are kept": ([94] * 50, 96, 0.0),
    "one in a hundred is long": ([30] * 99 + [200], 32, 0.01),
    "four in a hundred are long": ([30] * 96 + [200] * 4, 208, 0.0),
    "longer than the model reads": ([500] * 50, 256, 1.0),
    "short": ([1] * 50, 16, 0.0),
}


@pytest.mark.parametrize("case", LENGTHS)
def test_lengths(case):
    lengths, tokens, cut = LENGTHS[case]
    assert chosen(lengths=lengths).source == (tokens, cut)


def test_the_whole_time_is_shared_out():
    """20 minutes a seed: 3 x 20 s decode, and of the 1140 s left half is for three fine-tunings, half for two arms."""
    found = chosen(minutes=60, seeds=3)
    assert found.epochs == pytest.approx(1140 / 2 / 3 / (1200 * SECONDS_PER_PAIR), rel=0.05)  # two figures are kept
    spent = 3 * (20 + found.epochs * 1200 * SECONDS_PER_PAIR) + 2 * 60 * found.arm_minutes
    assert spent == pytest.approx(1200, rel=1e-9)
    assert found.flops == pytest.approx(found.passes * 500 * FLOPS_PER_TEXT, rel=0.05)
    assert found.samples is None
    assert found.steps == round(found.epochs * 1200 / 16)


def test_more_time_than_texts_can_use_is_not_spent():
    found = chosen(minutes=10_000)
    assert (found.epochs, found.passes) == (10.0, 30.0)


def test_where_time_is_short_fewer_pairs_are_scored():
    found = chosen(minutes=1, seeds=1)  # 60 s, of which 24 may be decoding: 8 s an arm, at 0.1 s each
    assert found.samples == 80
    assert found.epochs * 1200 * SECONDS_PER_PAIR * 3 == pytest.approx(18, rel=0.05)


RATES = {(2 * MB, False): 1e-3, (2 * MB, True): 1e-3, (100 * MB, False): 1e-4, (600 * MB, False): 3e-5,
         (600 * MB, True): 3e-4}  # fmt: skip


@pytest.mark.parametrize("model", RATES)
def test_learning_rates(model):
    assert learning_rate(*model) == pytest.approx(RATES[model])


AMOUNTS = {
    "16GiB": 16 * 2**30,
    "24 GB": 24e9,
    "24gb": 24e9,
    "900MiB": 900 * 2**20,
    "8e9": 8e9,
    "1.5g": 1.5e9,
    "12345": 12345,
}


@pytest.mark.parametrize("written", AMOUNTS)
def test_amounts_of_memory(written):
    assert read_bytes(written) == AMOUNTS[written]
    assert Wishes(device_memory=written).device_memory == AMOUNTS[written]


@pytest.mark.parametrize("written", ["much", "-1GB", "16 apples", "0", "GiB", "1.2.3G", True])
def test_what_is_no_amount_is_refused(written):
    with pytest.raises(ValueError, match="must be a size such as 16GiB"):
        Wishes(device_memory=written)
