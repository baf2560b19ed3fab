"""Values of configurations that no model can have, which transformers takes as they are."""

import pytest

from polygraft.errors import CheckpointError
from polygraft.models.sound import assert_sound, reading

GOOD = {"dropout": 0.1, "activation_dropout": 0, "encoder_layerdrop": 0.0, "pad_token_id": 1, "eos_token_id": [2, 3]}
BAD = {
    "below 0": ({"dropout": -4239}, "dropout = -4239, but that has to be a probability"),
    "above 1": ({"hidden_dropout_prob": 1.5}, "a probability, from 0 to 1"),
    "no number": ({"attention_dropout": "0.1"}, "a probability"),
    "not a number": ({"dropout": float("nan")}, "a probability"),
    "a switch": ({"dropout": True}, "a probability"),
    "text for a switch": ({"output_hidden_states": "yes"}, "true or false"),
    "an id beyond the rows": ({"eos_token_id": 10}, "the id of a token, from 0 to 9"),
    "a negative id": ({"pad_token_id": -1}, "the id of a token"),
    "a switch for an id": ({"forced_bos_token_id": True}, "the id of a token"),
    "none at all": ({"eos_token_id": []}, "the id of a token"),
    "one of several": ({"eos_token_id": [2, 10]}, "the id of a token"),
    "a section for an id": ({"eos_token_id": {"a": {"a": 1}}}, "the id of a token"),
    "in a part": ({"decoder": {"model_type": "mbart", "vocab_size": 5, "eos_token_id": 7}}, "from 0 to 4"),
}


def test_what_models_have_is_taken():
    assert_sound(
        GOOD | {"decoder": GOOD | {"model_type": "mbart", "vocab_size": 4}, "forced_bos_token_id": None},
        10,
        "m",
        "config.json",
    )
    tasks = {"task_specific_params": {"translation_en_to_ro": {"decoder_start_token_id": 250020}}}
    assert_sound(GOOD | tasks, 10, "m", "config.json")  # a trimmed cc25
    assert_sound({"bos_token_id": 50256}, None, "m", "config.json")  # of a model whose ids nothing uses


@pytest.mark.parametrize(("values", "message"), BAD.values(), ids=BAD)
def test_what_no_model_can_have_is_refused(values, message):
    with pytest.raises(CheckpointError, match=message):
        assert_sound(GOOD | values, 10, "m", "config.json")


class PanicException(BaseException):
    """As Rust's is: no Exception."""


@pytest.mark.parametrize(
    "error", [Exception("bare"), TypeError("of None"), RecursionError(), PanicException("at a byte")]
)
def test_whatever_a_library_raises_is_one_error(error):
    with pytest.raises(CheckpointError, match="m: cannot load its tokenizer: "), reading("m", "tokenizer"):
        raise error


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt(), CheckpointError("ours")])
def test_what_is_not_of_the_files_stays_what_it_is(error):
    with pytest.raises(type(error)) as caught, reading("m", "tokenizer"):
        raise error
    assert caught.value is error
