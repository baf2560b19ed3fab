"""Sources of other kinds than the target's twin: another architecture, more tokens."""

from __future__ import annotations

import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, BertConfig, BertForMaskedLM

from polygraft.models import checkpoints, graft
from polygraft.settings import TextData, Trim
from polygraft.stages import transfer
from polygraft.stages.vocabulary import run_trim
from polygraft.transfers.methods import EncoderTransfer


def test_a_bert_class_source(tiny_mbart, mbart_tokenizer, xlmr_tokenizer, tmp_path, sentences):
    """multilingual-e5's case: BERT's architecture, XLM-R's vocabulary, no language modelling head of its own."""
    config = BertConfig(
        vocab_size=len(xlmr_tokenizer), hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        max_position_embeddings=40, pad_token_id=1,
    )  # fmt: skip
    bert = BertForMaskedLM(config).eval()
    checkpoints.save(bert, xlmr_tokenizer, tmp_path / "bert")
    checkpoints.save(tiny_mbart, mbart_tokenizer, tmp_path / "target")
    (tmp_path / "text.txt").write_text("\n".join(sentences), encoding="utf-8")
    text = TextData(train_file=str(tmp_path / "text.txt"), lang="uk")
    transfer.run(EncoderTransfer(), None, str(tmp_path / "bert"), str(tmp_path / "target"), text, tmp_path / "out")
    model = checkpoints.load_seq2seq(str(tmp_path / "out")).eval()
    ids = torch.tensor([[0, 5, 6, 7, 2]])
    with torch.no_grad():
        assert torch.equal(model.encoder(ids).last_hidden_state, bert.bert(ids).last_hidden_state)
    assert checkpoints.max_positions(model) == 40


def test_a_source_with_more_tokens_than_the_target(tmp_path):
    """nano mBART with the rows of one text: its tokens have ids in nano XLM-R that it has no rows for."""
    file = "polygraft/sample/uk/test.parquet"
    run_trim(Trim(train_file=[file]), "polygraft/nano-mbart", tmp_path / "small")
    text = TextData(train_file=file, lang="uk")
    how = EncoderTransfer(calibration_tokens=2000)
    transfer.run(how, None, "polygraft/nano-xlmr", str(tmp_path / "small"), text, tmp_path / "out")
    small = AutoTokenizer.from_pretrained(tmp_path / "out")
    full = AutoTokenizer.from_pretrained(checkpoints.resolve("polygraft/nano-xlmr"))
    read = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out").state_dict()[graft.ENCODER_ROWS]
    known = checkpoints.load_masked_lm("polygraft/nano-xlmr").roberta.embeddings.word_embeddings.weight
    tokens = [
        token for token in small.get_vocab() if token in full.get_vocab() and token not in small.all_special_tokens
    ]
    assert max(full.convert_tokens_to_ids(tokens)) > len(read)
    assert torch.equal(read[small.convert_tokens_to_ids(tokens)], known[full.convert_tokens_to_ids(tokens)])
