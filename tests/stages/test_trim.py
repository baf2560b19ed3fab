"""Trimmed training inside a stage, and the verbs that change a checkpoint's vocabulary."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertTokenizer

from polygraft.errors import CheckpointError, DataError
from polygraft.models import checkpoints
from polygraft.models.trimming import needed_ids
from polygraft.objectives import MLM, Denoising
from polygraft.settings import Budget, Finetune, PairData, TextData, Trim
from polygraft.stages import adapt, finetune, vocabulary

BUDGET = {"budget": Budget(steps=3), "per_device_train_batch_size": 2, "learning_rate": 1e-3}


@pytest.fixture
def text(tmp_path, sentences):
    path = tmp_path / "text.jsonl"
    few = sentences[:4]  # English only, so that other rows stay out
    path.write_text("".join(json.dumps({"text": s, "summary": s[:20]}) + "\n" for s in few), encoding="utf-8")
    return str(path)


def changed_rows(before, after):
    old, new = before.get_input_embeddings().weight, after.get_input_embeddings().weight
    return set((old != new).any(dim=1).nonzero().squeeze(1).tolist())


@pytest.mark.parametrize("stage", ["mlm", "denoising", "finetune"])
def test_trimmed_stage_saves_a_full_checkpoint_whose_other_rows_are_untouched(stage, text, request, tmp_path):
    folder = str(request.getfixturevalue("tiny_xlmr_dir" if stage == "mlm" else "tiny_mbart_dir"))
    out = tmp_path / "out"
    out.mkdir()
    if stage == "finetune":
        settings = Finetune(**BUDGET, trim_vocabulary=True)
        result = finetune.run(settings, folder, PairData(train_file=text, source_lang="en"), 1, out)
    else:
        kind = MLM if stage == "mlm" else Denoising
        result = adapt.run(kind(**BUDGET, trim_vocabulary=True), folder, TextData(train_file=text, lang="en"), 1, out)
    before, after = checkpoints.load_any(folder), checkpoints.load_any(str(out))
    tokenizer = checkpoints.load_tokenizer(folder)
    rows = [json.loads(line) for line in Path(text).read_text(encoding="utf-8").splitlines()]
    columns = ("text", "summary") if stage == "finetune" else ("text",)
    kept = needed_ids(tokenizer, [row[c] for row in rows for c in columns])
    assert result["classes"] == len(kept) < before.config.vocab_size
    assert after.config.vocab_size == before.config.vocab_size
    changed = changed_rows(before, after)
    assert changed and changed <= set(kept.tolist())
    assert checkpoints.load_tokenizer(str(out)).get_vocab() == tokenizer.get_vocab()
    if stage != "mlm":
        assert after.generation_config.forced_bos_token_id == tokenizer.convert_tokens_to_ids("en_XX")


def test_trim_by_hand_then_finetune_then_restore(tiny_mbart_dir, text, tmp_path):
    result = vocabulary.run_trim(
        Trim(train_file=[text], text_column=["text", "summary"]), str(tiny_mbart_dir), tmp_path / "small"
    )
    assert result["after"]["rows"] < result["before"]["rows"]
    assert result["before"]["parameters"] - result["after"]["parameters"] == 48 * (
        result["before"]["rows"] - result["after"]["rows"]
    )
    assert result["after"]["training_bytes"] == 16 * result["after"]["parameters"]
    (tmp_path / "tuned").mkdir()
    finetune.run(
        Finetune(**BUDGET), str(tmp_path / "small"), PairData(train_file=text, source_lang="en"), 1, tmp_path / "tuned"
    )
    vocabulary.run_restore(str(tmp_path / "tuned"), str(tiny_mbart_dir), tmp_path / "full")
    before, after = checkpoints.load_seq2seq(str(tiny_mbart_dir)), checkpoints.load_seq2seq(str(tmp_path / "full"))
    tuned, tokenizer = (
        checkpoints.load_seq2seq(str(tmp_path / "tuned")),
        checkpoints.load_tokenizer(str(tmp_path / "full")),
    )
    assert changed_rows(before, after)
    small = checkpoints.load_tokenizer(str(tmp_path / "tuned"))
    ids = tokenizer.convert_tokens_to_ids(small.convert_ids_to_tokens(range(len(small))))
    assert torch.equal(after.model.shared.weight[ids], tuned.model.shared.weight)
    assert torch.equal(after.model.decoder.layers[1].fc2.weight, tuned.model.decoder.layers[1].fc2.weight)


def test_restoring_into_another_model_is_refused(tiny_mbart_dir, tiny_xlmr_dir, text, tmp_path):
    vocabulary.run_trim(Trim(train_file=[text]), str(tiny_mbart_dir), tmp_path / "small")
    with pytest.raises(CheckpointError, match=r"not in the full one, such as|did not come from this one"):
        vocabulary.run_restore(str(tmp_path / "small"), str(tiny_xlmr_dir), tmp_path / "full")
    vocabulary.run_add_languages({"xx_XX": "en"}, str(tmp_path / "small"), tmp_path / "more")
    with pytest.raises(CheckpointError, match=r"such as 'xx_XX'.*added before trimming"):
        vocabulary.run_restore(str(tmp_path / "more"), str(tiny_mbart_dir), tmp_path / "full")


def test_new_language_starts_as_its_relative(tiny_mbart_dir, tmp_path, text):
    ids = vocabulary.run_add_languages({"nn_NO": "da_DK", "be_BY": "uk"}, str(tiny_mbart_dir), tmp_path / "new")
    model, tokenizer = (
        checkpoints.load_seq2seq(str(tmp_path / "new")),
        checkpoints.load_tokenizer(str(tmp_path / "new")),
    )
    rows = model.get_input_embeddings().weight
    for new, known in (("nn_NO", "da_DK"), ("be_BY", "uk_UA")):
        assert torch.equal(rows[ids[new]], rows[tokenizer.convert_tokens_to_ids(known)])
        assert tokenizer.convert_tokens_to_ids(new) == ids[new]
    (tmp_path / "out").mkdir()
    pairs = PairData(train_file=text, source_lang="be")
    finetune.run(Finetune(**BUDGET), str(tmp_path / "new"), pairs, 1, tmp_path / "out")
    assert checkpoints.load_seq2seq(str(tmp_path / "out")).generation_config.forced_bos_token_id == ids["be_BY"]


@pytest.mark.parametrize(
    ("languages", "message"),
    [({"nn-NO": "da"}, "write it like uk_UA"), ({"uk_UA": "ru"}, "has it already"),
     ({"nn_NO": "xx"}, "'xx' is not one of")],
)  # fmt: skip
def test_wrong_new_languages(tiny_mbart_dir, tmp_path, languages, message):
    with pytest.raises(DataError, match=message):
        vocabulary.run_add_languages(languages, str(tiny_mbart_dir), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_other_vocabularies_cannot_be_trimmed(tmp_path, text):
    vocab = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "a"])}
    BertTokenizer(vocab=vocab).save_pretrained(tmp_path / "bert")
    BertForMaskedLM(BertConfig(vocab_size=7, hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
                               intermediate_size=8)).save_pretrained(tmp_path / "bert")  # fmt: skip
    with pytest.raises(CheckpointError, match=r"WordPiece model cannot be trimmed"):
        vocabulary.run_trim(Trim(train_file=[text]), str(tmp_path / "bert"), tmp_path / "out")
