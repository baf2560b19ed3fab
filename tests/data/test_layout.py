"""The table of language codes and label shifting, for both mBART families."""

import pytest
import torch
from transformers.models.mbart.modeling_mbart import shift_tokens_right

from polygraft.data.layout import IGNORED, Layout, pad_rows

LANGUAGE, EOS, PAD = 9, 2, 1


@pytest.mark.parametrize(
    ("first", "wrapped", "decoder"),
    [
        (True, [LANGUAGE, 5, 6, EOS], [EOS, LANGUAGE, 5, 6]),  # mBART-50
        (False, [5, 6, EOS, LANGUAGE], [LANGUAGE, 5, 6, EOS]),  # cc25
    ],
)
def test_layouts(first, wrapped, decoder):
    layout = Layout(first, EOS, PAD)
    assert layout.wrap([5, 6], LANGUAGE) == wrapped
    assert layout.decoder_input_ids(torch.tensor([wrapped])).tolist() == [decoder]


def test_shift_equals_hugging_faces(mbart_tokenizer):
    """Independent reference: transformers' shift_tokens_right, on rows of unequal length padded with -100."""
    layout = Layout.of(mbart_tokenizer)
    labels = pad_rows([[9, 5, 6, 2], [9, 2], [9, 5, 2]], IGNORED)
    expected = shift_tokens_right(labels.clone(), PAD)
    assert torch.equal(layout.decoder_input_ids(labels), expected)


def test_family_is_told_by_the_tokenizers_class(mbart_tokenizer):
    assert Layout.of(mbart_tokenizer).language_first
    cc25 = type("MBartTokenizer", (), {"eos_token_id": 2, "pad_token_id": 1})()
    assert not Layout.of(cc25).language_first


def test_own_tokenizer_agrees(mbart_tokenizer):
    """Independent reference: what MBart50Tokenizer itself makes of a source and of a target."""
    layout = Layout.of(mbart_tokenizer)
    mbart_tokenizer.src_lang, mbart_tokenizer.tgt_lang = "uk_UA", "fr_XX"
    content = mbart_tokenizer("Бібліотека", add_special_tokens=False)["input_ids"]
    both = mbart_tokenizer("Бібліотека", text_target="Бібліотека")
    source, target = (mbart_tokenizer.convert_tokens_to_ids(code) for code in ("uk_UA", "fr_XX"))
    assert layout.wrap(content, source) == both["input_ids"]
    assert layout.wrap(content, target) == both["labels"]
