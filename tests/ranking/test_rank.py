"""Candidates of all kinds side by side; what is refused, and why; what is known without measuring."""

import json

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    MBartForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
    XLMRobertaForMaskedLM,
    XLMRobertaTokenizer,
)

from polygraft import ranking
from polygraft.errors import DataError, RecipeError
from polygraft.measure.losses import masked_passes
from polygraft.models import checkpoints
from polygraft.settings import TextData


def text_of(path, **settings):
    return [TextData(train_file=str(path), **{"lang_column": "lang", **settings})]


def by_name(report):
    return {one.name: one for one in report.candidates}


def test_unlike_models_rank_side_by_side(others, tiny_xlmr_dir, tiny_mbart_dir, text_file):
    sources = [str(tiny_xlmr_dir), *others.values()]
    report = ranking.run(sources, [str(tiny_mbart_dir)], text_of(text_file), 9)
    assert [one.name for one in report.candidates] == [*sources, str(tiny_mbart_dir)]
    for one in report.candidates:
        assert one.refused is None, one.refused
        assert [figures.language for figures in one.figures] == ["all", "en", "fr", "uk"]
        headless = one.name == others["e5"]
        assert one.has_mlm_head is (None if one.role == "target" else not headless)
        for figures in one.figures:
            assert (figures.bits_per_character is None) == headless
            if not headless:
                assert (
                    figures.bits_per_character.low < figures.bits_per_character.value < figures.bits_per_character.high
                )
    # random weights: each of a word's tokens costs about log2 of the vocabulary
    mbert, xlmr = by_name(report)[others["mBERT"]], by_name(report)[str(tiny_xlmr_dir)]
    for one in (mbert, xlmr):
        expected = np.log2(one.vocabulary) / one.figures[1].characters_per_token
        assert one.figures[1].bits_per_character.value == pytest.approx(expected, rel=0.3)
        assert any("is hardly better than chance, if at all (en " in note for note in one.notes)
    assert any("no MLM head of its own" in note for note in by_name(report)[others["e5"]].notes)
    pairs = {pair.source: pair for pair in report.pairs}
    assert set(pairs) == set(sources)
    assert "marks the insides of words" in pairs[others["mBERT"]].refused
    for name in set(sources) - {others["mBERT"]}:
        assert pairs[name].refused is None
        assert pairs[name].shared_share == 1.0
        assert -0.5 < pairs[name].heldout_r2 < 0.5, "between random matrices there is nothing to map"
    assert report.recommendation.target == str(tiny_mbart_dir)
    assert report.recommendation.source in set(sources) - {others["mBERT"], others["e5"]}


@pytest.mark.parametrize("kind", ["DeBERTa", "DeBERTa, other head", "ModernBERT"])
def test_heads_of_other_architectures(others, kind, xlmr_tokenizer, sentences):
    """Their own logits, one unpadded reading at a time, beside what is measured in batches."""
    from polygraft.measure.losses import pseudo_likelihood
    from polygraft.measure.pieces import cut

    if kind not in others:
        pytest.skip("transformers itself cannot load it")
    model, has_head = checkpoints.load_source(others[kind])
    assert has_head
    pieces = cut(xlmr_tokenizer, sentences[:3], 60)
    passes = [one for piece in pieces for one in masked_passes(piece)]
    found, expected = pseudo_likelihood(model.eval(), xlmr_tokenizer, passes, 3), np.zeros(3)
    for one in passes:
        ids = torch.tensor([[0, *one.piece.ids, 2]])
        hidden = ids.clone()
        hidden[0, one.hidden + 1] = xlmr_tokenizer.mask_token_id
        with torch.no_grad():
            log_p = model(hidden).logits[0].double().log_softmax(-1)
        expected[one.piece.document] -= sum(float(log_p[p + 1, ids[0, p + 1]]) for p in one.asked) / np.log(2)
    np.testing.assert_allclose(found.bits, expected, rtol=1e-5)  # measured: 2e-7


def test_one_bad_candidate_does_not_stop_the_others(
    save,
    tiny_xlmr_dir,
    tiny_mbart,
    tiny_mbart_dir,
    xlmr_tokenizer,
    mbart_tokenizer,
    wordpiece_tokenizer,
    text_file,
    tmp_path,
    monkeypatch,
):
    size = {"vocab_size": len(xlmr_tokenizer)}
    gpt2 = save("gpt2", GPT2LMHeadModel(GPT2Config(**size, n_embd=16, n_layer=1, n_head=2)), xlmr_tokenizer)
    t5 = T5Config(**size, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0)
    t5 = save("t5", T5ForConditionalGeneration(t5), xlmr_tokenizer)
    small = BertForMaskedLM(BertConfig(vocab_size=100, hidden_size=16, num_hidden_layers=1, num_attention_heads=2))
    small = save("small", small, wordpiece_tokenizer)
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_text((tiny_xlmr_dir / "config.json").read_text())
    (pickled / "pytorch_model.bin").write_bytes(b"")
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    broken = BertForMaskedLM(BertConfig(vocab_size=len(wordpiece_tokenizer), pad_token_id=0, **shape))
    broken = save("broken", broken, wordpiece_tokenizer)

    def no_room(*_):
        raise torch.OutOfMemoryError("no room for it")

    monkeypatch.setattr(BertForMaskedLM, "set_attn_implementation", no_room)
    diverged = MBartForConditionalGeneration(tiny_mbart.config)
    diverged.model.encoder.layers[0].fc1.weight.data[0] = float("nan")
    diverged = save("diverged", diverged, mbart_tokenizer)
    reasons = {
        ("target", diverged): "its likelihoods are not numbers",
        ("source", gpt2): "of which transformers has no masked language model",
        ("source", str(tiny_mbart_dir)): "is a sequence-to-sequence model ('mbart')",
        ("source", str(tmp_path / "none")): "no such folder",
        ("source", str(pickled)): "cannot load",
        ("source", small): "but the model only 100 rows",
        ("source", broken): "cannot be measured: OutOfMemoryError: no room for it",
        ("target", t5): "is a 't5' model, but the target has to be an mBART",
        ("target", str(tiny_xlmr_dir)): "is a 'xlm-roberta' model, but the target has to be an mBART",
    }
    sources, targets = ([name for kind, name in reasons if kind == role] for role in ("source", "target"))
    report = ranking.run([*sources, str(tiny_xlmr_dir)], [*targets, str(tiny_mbart_dir)], text_of(text_file), 6)
    for one in report.candidates:
        reason = reasons.get((one.role, one.name))
        assert (one.refused is None) == (reason is None), (one.name, one.refused)
        assert reason is None or reason in one.refused
    assert [(pair.source, pair.target) for pair in report.pairs] == [(str(tiny_xlmr_dir), str(tiny_mbart_dir))]
    assert report.recommendation.source == str(tiny_xlmr_dir)


def test_a_defect_of_ours_is_not_called_a_bad_candidate(tiny_xlmr_dir, text_file, monkeypatch):
    """Every exception was: a ranking with nothing but refusals then looked like a finding."""
    monkeypatch.setattr(XLMRobertaForMaskedLM, "set_attn_implementation", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ranking.run([str(tiny_xlmr_dir)], [], text_of(text_file), 6)


def test_a_source_of_another_vocabulary_is_not_mapped(save, tiny_xlmr, pieces, tiny_mbart_dir, text_file):
    vocab, charsmap = pieces
    foreign = [(f"{piece}x" if i > 3 else piece, score) for i, (piece, score) in enumerate(vocab)]
    tokenizer = XLMRobertaTokenizer(vocab=[*foreign, ("<mask>", 0.0)], _spm_precompiled_charsmap=charsmap)
    name = save("foreign", tiny_xlmr, tokenizer)
    report = ranking.run([name], [str(tiny_mbart_dir)], text_of(text_file), 6)
    assert "of the target's tokens are in the source's vocabulary (at least 50% is needed)" in report.pairs[0].refused
    assert report.candidates[0].refused is None
    assert report.recommendation.sentence == f"Start from {tiny_mbart_dir}."
    assert f"No source maps into {tiny_mbart_dir}: the table says why." in report.recommendation.reasons


def test_a_target_without_any_of_the_languages_is_refused(tiny_mbart_dir, sentences, tmp_path):
    (tmp_path / "be.txt").write_text("\n".join(sentences[6:9]), encoding="utf-8")
    report = ranking.run([], [str(tiny_mbart_dir)], text_of(tmp_path / "be.txt", lang_column=None, lang="be"), 4)
    assert report.candidates[0].refused.startswith("has no code for any language of the text (be)")
    assert "polygraft add-language" in report.candidates[0].refused
    assert report.recommendation.sentence == "None of the candidates can be recommended."


def test_a_language_without_code_leaves_the_others(tiny_mbart_dir, text_file):
    lines = text_file.read_text(encoding="utf-8").replace('"uk"', '"be"')
    text_file.write_text(lines, encoding="utf-8")
    (one,) = ranking.run([], [str(tiny_mbart_dir)], text_of(text_file), 9).candidates
    figures = {figures.language: figures for figures in one.figures}
    assert figures["be"].code is None and figures["be"].bits_per_character is None
    assert figures["fr"].code == "fr_XX" and figures["fr"].bits_per_character is not None
    both = np.mean([figures[language].bits_per_character.value for language in ("en", "fr")])
    assert figures["all"].bits_per_character.value == pytest.approx(both)
    assert any("has no code for be; `polygraft add-language" in note for note in one.notes)


def test_coverage(others, tiny_xlmr_dir, xlmr_tokenizer, text_file, tmp_path):
    rows = text_file.read_text(encoding="utf-8").splitlines()
    rows += [json.dumps({"text": "αβγ δε, ☃ fin", "lang": "el"}), json.dumps({"text": "ζηθ", "lang": "el"})]
    text_file.write_text("\n".join(rows), encoding="utf-8")
    report = ranking.run([str(tiny_xlmr_dir)], [], text_of(text_file), 12)
    english = next(one for one in report.candidates[0].figures if one.language == "en")
    texts = [json.loads(row)["text"] for row in rows[:3]]
    tokens = sum(len(xlmr_tokenizer.tokenize(text)) for text in texts)
    words = sum(len([w for w in text.replace(".", " ").replace(",", " ").split() if w]) for text in texts)
    assert english.tokens_per_word == pytest.approx(tokens / words)
    assert english.characters_per_token == pytest.approx(sum(map(len, texts)) / tokens)
    assert english.unknown_share == 0 and english.known_letters == {"LATIN": 1.0}
    greek = next(one for one in report.candidates[0].figures if one.language == "el")
    assert greek.unknown_share > 0.3
    assert greek.known_letters == {"GREEK": 0.0, "LATIN": 1.0}
    assert any("letters unknown to its tokenizer: el 100%" in note for note in report.candidates[0].notes)
    scripts = {one.language: one.scripts for one in report.text}
    assert scripts["uk"] == {"CYRILLIC": 1.0}
    assert scripts["el"] == pytest.approx({"GREEK": 8 / 11, "LATIN": 3 / 11})


def test_never_learned_rows_and_codes(save, tiny_mbart, mbart_tokenizer, text_file):
    """Rows on one common drift are those of tokens that were never read (transfers/dead_rows.py)."""
    matrix = tiny_mbart.get_input_embeddings().weight.detach()
    ids = mbart_tokenizer(text_file.read_text(encoding="utf-8"), add_special_tokens=False)["input_ids"]
    cyrillic = {i for i in ids if any("а" <= letter <= "я" for letter in mbart_tokenizer.convert_ids_to_tokens(i))}
    dead = torch.tensor(sorted(cyrillic | {mbart_tokenizer.convert_tokens_to_ids("uk_UA")}))
    generator = torch.Generator().manual_seed(0)
    matrix.copy_(torch.randn(matrix.shape, generator=generator))
    drift = 3 * torch.randn(48, generator=generator)
    matrix[dead] = drift + 0.1 * torch.randn(len(dead), 48, generator=generator)
    matrix[1] = drift
    name = save("lost", tiny_mbart, mbart_tokenizer)
    report = ranking.run([], [name], text_of(text_file), 9)
    figures = {one.language: one for one in report.candidates[0].figures}
    assert figures["en"].never_learned_share == 0
    assert figures["uk"].never_learned_share > 0.7
    assert figures["en"].code_read is True and figures["uk"].code_read is False
    assert any("has a code for uk (uk_UA), but never read a text in it" in note for note in report.candidates[0].notes)


def test_cost_in_closed_form(tiny_xlmr_dir, tiny_xlmr, xlmr_tokenizer, sentences, tmp_path):
    (tmp_path / "text.txt").write_text("\n".join([sentences[0]] * 8), encoding="utf-8")
    report = ranking.run([str(tiny_xlmr_dir)], [], text_of(tmp_path / "text.txt", lang_column=None, lang="en"), 8)
    length, d, ff, layers = len(xlmr_tokenizer(sentences[0])["input_ids"]), 32, 64, 2
    body = layers * (2 * (4 * d * d + 2 * d * ff) + 4 * length * d)
    head = 2 * (d * d + d * len(xlmr_tokenizer)) * -(-8 * length // 7) / (8 * length)
    assert report.candidates[0].cost.tflop == pytest.approx(body / 1e6 + head / 1e6, rel=1e-6)
    assert report.candidates[0].cost.seconds > 0
    assert report.candidates[0].parameters == tiny_xlmr.num_parameters()


def test_a_tokenizer_that_lower_cases_is_said_to(save, wordpiece_tokenizer, sentences, tmp_path):
    from transformers import BertTokenizer

    tokenizer = BertTokenizer(vocab=wordpiece_tokenizer.get_vocab(), do_lower_case=True)
    config = BertConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    name = save("uncased", BertForMaskedLM(config), tokenizer)
    (tmp_path / "text.txt").write_text("\n".join(sentences[3:6]), encoding="utf-8")
    report = ranking.run([name], [], text_of(tmp_path / "text.txt", lang_column=None, lang="fr"), 4)
    assert any("drops capitals and accents" in note for note in report.candidates[0].notes)


def test_no_candidates_and_no_text(tiny_xlmr_dir, text_file):
    with pytest.raises(RecipeError, match="there is no candidate"):
        ranking.run([], [], text_of(text_file), 4)
    other = TextData(train_file=str(text_file), text_column="lang", lang_column="language")
    with pytest.raises(DataError, match="there is no column 'language'"):
        ranking.run([str(tiny_xlmr_dir)], [], [*text_of(text_file), other], 4)
