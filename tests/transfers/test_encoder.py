"""The source's encoder before the target's decoder: exact where it can be, plain to transformers, of use to stages."""

from __future__ import annotations

import copy
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    EncoderDecoderModel,
    MBartTokenizer,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
)
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.mbart50.tokenization_mbart50 import FAIRSEQ_LANGUAGE_CODES

from polygraft.data.dataset import texts_of
from polygraft.errors import CheckpointError, DataError, TransferError
from polygraft.inference.engine import generate_texts
from polygraft.models import checkpoints, graft
from polygraft.models.trimming import trim
from polygraft.objectives import WarmUp
from polygraft.settings import Evaluate, Finetune, PairData, TextData
from polygraft.stages import adapt, evaluate, finetune, transfer
from polygraft.transfers.methods import EncoderTransfer
from polygraft.transfers.states import calibration

IDS = torch.tensor([[9, 5, 6, 7, 8, 2], [9, 10, 11, 2, 1, 1]])
MASK = (IDS != 1).long()
DECODER_IDS = torch.tensor([[2, 9, 20, 21, 22], [2, 9, 23, 24, 25]])


def wider(tokenizer, width):
    """A source as wide as the target, or not."""
    torch.manual_seed(4)
    config = XLMRobertaConfig(
        vocab_size=len(tokenizer), hidden_size=width, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=42, type_vocab_size=1, pad_token_id=1,
    )  # fmt: skip
    return XLMRobertaForMaskedLM(config).eval()


@pytest.fixture(params=[32, 48])
def pair_dirs(request, tiny_mbart, xlmr_tokenizer, mbart_tokenizer, tmp_path, sentences):
    """Folders of a source of another or the same width, and of a target; text, and pairs of it."""
    source = wider(xlmr_tokenizer, request.param)
    for name, model, tokenizer in (("source", source, xlmr_tokenizer), ("target", tiny_mbart, mbart_tokenizer)):
        checkpoints.save(model, tokenizer, tmp_path / name)
    (tmp_path / "text.txt").write_text("\n".join(sentences), encoding="utf-8")
    rows = [json.dumps({"text": text, "summary": text[:20]}, ensure_ascii=False) for text in sentences]
    (tmp_path / "pairs.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return SimpleNamespace(
        source=str(tmp_path / "source"), target=str(tmp_path / "target"), out=tmp_path / "out", model=source,
        text=TextData(train_file=str(tmp_path / "text.txt"), lang="uk"), pairs=str(tmp_path / "pairs.jsonl"),
    )  # fmt: skip


def run(dirs, **settings):
    return transfer.run(EncoderTransfer(**settings), None, dirs.source, dirs.target, dirs.text, dirs.out)


@torch.no_grad()
def logits(model, ids=IDS, **more):
    return model(input_ids=ids, attention_mask=(ids != 1).long(), decoder_input_ids=DECODER_IDS, **more).logits


@torch.no_grad()
def test_own_encoder_and_identity_bridge_give_the_targets_own_logits(tiny_mbart):
    expected = logits(tiny_mbart)
    encoder = copy.deepcopy(tiny_mbart.get_encoder())
    config = graft.graft_config(encoder.config, tiny_mbart.config, 64)
    model = graft.assemble(encoder, tiny_mbart, config)
    graft.set_bridge(model, torch.eye(48, dtype=torch.float64), torch.zeros(48, dtype=torch.float64))
    assert torch.equal(logits(model), expected)


@torch.no_grad()
@pytest.mark.parametrize("width", [32, 48])
def test_the_bridge_is_the_linear_map_exactly(width, tiny_mbart, xlmr_tokenizer):
    """Independent reference: the target itself, given the mapped states in place of its encoder's."""
    source = wider(xlmr_tokenizer, width).base_model
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(width, 48, generator=generator, dtype=torch.float64) / width**0.5
    intercept = torch.randn(48, generator=generator, dtype=torch.float64)
    states = source(input_ids=IDS, attention_mask=MASK).last_hidden_state
    mapped = (states.double() @ weight + intercept).float()
    read = BaseModelOutput(last_hidden_state=mapped)
    expected = tiny_mbart(encoder_outputs=read, attention_mask=MASK, decoder_input_ids=DECODER_IDS).logits
    model = graft.assemble(source, tiny_mbart, graft.graft_config(source.config, tiny_mbart.config, 40))
    graft.set_bridge(model, weight, intercept)
    assert hasattr(model, "enc_to_dec_proj") == (width != 48)  # transformers has no such layer for equal widths
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=0)  # measured 2.4e-7
    positions = torch.arange(10)
    ours = graft.decoder_states(model, IDS, MASK, DECODER_IDS)
    assert torch.equal(model.get_output_embeddings()(ours).flatten(0, 1)[positions], logits(model).flatten(0, 1))


def test_plain_transformers_reads_it_like_the_source(pair_dirs, xlmr_tokenizer, sentences):
    result = run(pair_dirs)
    model = AutoModelForSeq2SeqLM.from_pretrained(pair_dirs.out).eval()
    tokenizer = AutoTokenizer.from_pretrained(pair_dirs.out, src_lang="uk_UA")
    assert type(model) is EncoderDecoderModel
    assert tokenizer.model_max_length == 40
    text = f"{sentences[6][:20]} {xlmr_tokenizer.mask_token}"
    theirs, ours = tokenizer(text, return_tensors="pt"), xlmr_tokenizer(text, return_tensors="pt")
    assert theirs["input_ids"][0, 0] == tokenizer.convert_tokens_to_ids("uk_UA")
    assert theirs["input_ids"][0, -2] == tokenizer.mask_token_id != xlmr_tokenizer.mask_token_id
    with torch.no_grad():
        expected = pair_dirs.model.base_model(**ours).last_hidden_state
        assert torch.equal(model.encoder(**theirs).last_hidden_state, expected)
        generated = model.generate(**theirs, max_new_tokens=5, forced_bos_token_id=int(theirs["input_ids"][0, 0]))
    assert generated[0, 1] == theirs["input_ids"][0, 0]
    diagnostics = json.loads((pair_dirs.out / "diagnostics.json").read_text())
    assert diagnostics["bridge_fit_tokens"] > diagnostics["bridge_heldout_tokens"] > 0
    assert result["flops"] > 0
    head, rows = model.decoder.lm_head.weight, model.decoder.model.decoder.embed_tokens.weight
    assert head is rows or head.data_ptr() == rows.data_ptr()


def test_every_tensor_comes_from_where_the_plan_says(pair_dirs):
    result = run(pair_dirs)
    entries = json.loads((pair_dirs.out / "plan.json").read_text())["entries"]
    saved = AutoModelForSeq2SeqLM.from_pretrained(pair_dirs.out).state_dict()
    source = pair_dirs.model.base_model.state_dict()
    target = checkpoints.load_seq2seq(pair_dirs.target).state_dict()
    origins = {entry["tensor"]: (entry["origin"], entry["transform"]) for entry in entries if entry["rows"] is None}
    for name, (origin, transform) in origins.items():
        if transform == "keep":
            old = source[name.removeprefix("encoder.")] if origin == "source" else target[name.removeprefix("decoder.")]
            assert torch.equal(saved[name], old), name
        elif transform == "zero":
            assert not saved[name].any()
        else:
            assert not torch.equal(saved[name], target.get(name.removeprefix("decoder."), torch.zeros(1)))
    bridged = {name for name, (origin, _) in origins.items() if "calibration" in origin}
    equal_widths = pair_dirs.model.config.hidden_size == 48
    assert len(bridged) == (8 if equal_widths else 2)  # keys and values of two layers, or one linear layer
    assert sum(result["rows"].values()) == len(saved[graft.ENCODER_ROWS]) + len(saved[graft.DECODER_ROWS])


@torch.no_grad()
def test_an_exact_image_is_bridged_exactly(pair_dirs, monkeypatch):
    """A target whose final states are a linear map of the source's: the graft has the target's own logits."""
    width = pair_dirs.model.config.hidden_size
    generator = torch.Generator().manual_seed(7)
    weight, intercept = torch.randn(width, 48, generator=generator), torch.randn(48, generator=generator)
    true_states = calibration.states

    def states(encoder, ids, mask, sites, after):
        (site,) = sites
        if site.side == "target":
            ids = ids.masked_fill(ids >= ids_of_codes, 0)  # what the source reads for a language code
            source = true_states(base, ids, mask, [calibration.Site("source", 2)])
            return {site: source[calibration.Site("source", 2)] @ weight + intercept}
        return true_states(encoder, ids, mask, sites)

    base, ids_of_codes = pair_dirs.model.base_model, len(pair_dirs.model.get_input_embeddings().weight) - 1
    monkeypatch.setattr(calibration, "states", states)
    run(pair_dirs, ridge_lambda=1e-12)
    model = AutoModelForSeq2SeqLM.from_pretrained(pair_dirs.out).eval()
    target = checkpoints.load_seq2seq(pair_dirs.target).eval()
    read = BaseModelOutput(last_hidden_state=base(IDS, attention_mask=MASK).last_hidden_state @ weight + intercept)
    expected = target(encoder_outputs=read, attention_mask=MASK, decoder_input_ids=DECODER_IDS).logits
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=0)  # measured 2.4e-7


def test_random_encoder_is_drawn_by_the_seed_and_known_rows_are_repaired_all_the_same(pair_dirs, tmp_path):
    models = {}
    for seed, control in ((1, "random"), (1, "random"), (2, "random"), (0, "none")):
        settings, out = EncoderTransfer(control=control), tmp_path / f"{control}-{seed}-{len(models)}"
        transfer.run(settings, None, pair_dirs.source, pair_dirs.target, pair_dirs.text, out, seed=seed)
        models[out] = AutoModelForSeq2SeqLM.from_pretrained(out).state_dict()
    first, again, other, real = models.values()
    name = "encoder.encoder.layer.1.output.dense.weight"
    assert torch.equal(first[name], again[name])
    assert not torch.equal(first[name], other[name])
    assert torch.equal(real[name], pair_dirs.model.base_model.state_dict()[name.removeprefix("encoder.")])
    assert all(torch.equal(model[graft.DECODER_ROWS], real[graft.DECODER_ROWS]) for model in models.values())


@torch.no_grad()
def test_permuted_reads_other_tokens_of_the_text(pair_dirs, tmp_path):
    """The graft reads a text as the source reads the permuted one; and costs and the decoder are as without."""
    results, models = {}, {}
    for control, seed in (("none", 0), ("permuted", 0), ("permuted", 1), ("random", 0)):
        settings, out = EncoderTransfer(control=control), tmp_path / f"{control}-{seed}"
        paths = None, pair_dirs.source, pair_dirs.target, pair_dirs.text, out
        results[control, seed] = transfer.run(settings, *paths, seed=seed)
        models[control, seed] = AutoModelForSeq2SeqLM.from_pretrained(out).eval()
    assert len({result["flops"] for result in results.values()}) == 1  # to the operation
    real, placebo, other, _ = (model.state_dict()[graft.ENCODER_ROWS] for model in models.values())
    assert not torch.equal(placebo, other)
    base = pair_dirs.model.base_model
    count = len(base.embeddings.word_embeddings.weight) - 1  # up to there ids are the same in both
    reads = torch.cdist(placebo[:count], real[:count]).argmin(1)
    moved = torch.nonzero(reads != torch.arange(len(reads)))[:, 0]
    assert torch.equal(moved, torch.arange(4, count))  # every piece, no special token, no language code
    ids = torch.tensor([[0, 5, 40, 7, 8, 2]])
    expected = base(input_ids=reads[ids]).last_hidden_state
    assert torch.equal(models["permuted", 0].encoder(ids).last_hidden_state, expected)
    read = list(texts_of(pair_dirs.text, 0)[0])
    text = {i for ids in AutoTokenizer.from_pretrained(pair_dirs.target)(read)["input_ids"] for i in ids}
    assert all((i in text) == (int(reads[i]) in text) for i in moved.tolist())
    entries = json.loads((tmp_path / "permuted-0" / "plan.json").read_text())["entries"]
    control = next(entry for entry in entries if entry["reason"].startswith("control: "))
    assert (control["tensor"], control["rows"], control["transform"]) == (
        graft.ENCODER_ROWS, len(moved), "copy rows of other tokens",
    )  # fmt: skip
    drawn = json.loads((tmp_path / "random-0" / "plan.json").read_text())["entries"]
    encoders = [entry for entry in drawn if entry["tensor"].startswith("encoder.") and entry["transform"] != "zero"]
    assert {entry["origin"] for entry in encoders} == {"random"}
    for name in (graft.DECODER_ROWS, "decoder.model.decoder.layers.0.fc1.weight"):
        assert all(
            torch.equal(model.state_dict()[name], models["none", 0].state_dict()[name]) for model in models.values()
        )


def test_all_stages_go_on_with_it(pair_dirs, tmp_path):
    run(pair_dirs)
    before = AutoModelForSeq2SeqLM.from_pretrained(pair_dirs.out).state_dict()
    short = {"budget": {"steps": 2}, "per_device_train_batch_size": 4}
    warm_up = WarmUp(**short, max_length_tokens=32)
    warm = adapt.run(warm_up, str(pair_dirs.out), pair_dirs.text, 1, tmp_path / "warm")
    after = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "warm").state_dict()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    attention = {name for name in after if ".encoder_attn" in name}
    assert changed | {n for n in attention if n.endswith("k_proj.bias")} == attention | {
        name for name in after if name.startswith("enc_to_dec_proj")
    }  # a bias of all keys changes no softmax, and so has no gradient
    assert warm["tokens"] > 0
    pairs = PairData(train_file=pair_dirs.pairs, test_file=pair_dirs.pairs, source_lang="uk")
    lengths = {"max_source_length_tokens": 32}
    tuned = Finetune(**short, **lengths, max_target_length_tokens=16)
    finetune.run(tuned, str(tmp_path / "warm"), pairs, 1, tmp_path / "tuned")
    scored = Evaluate(**lengths, num_beams=2, max_new_tokens=4, per_device_eval_batch_size=4)
    scores = evaluate.run(scored, str(tmp_path / "tuned"), pairs, tmp_path / "scores")
    assert scores["systems"]["model"]["all"]["loss_per_token"]["score"] > 0
    trained = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "tuned").state_dict()
    assert not torch.equal(
        trained["encoder.encoder.layer.0.output.dense.weight"], after["encoder.encoder.layer.0.output.dense.weight"]
    )
    assert not trained["encoder.pooler.dense.weight"].any()


def test_sources_longer_than_the_encoder_reads_are_refused(pair_dirs, tmp_path, sentences):
    run(pair_dirs)
    long = " ".join(sentences)
    (tmp_path / "long.jsonl").write_text("\n".join([json.dumps({"text": long, "summary": "s"})] * 2), encoding="utf-8")
    file = str(tmp_path / "long.jsonl")
    pairs = PairData(train_file=file, test_file=file, source_lang="uk", target_lang="uk")
    message = r"sources are longer than the 40 tokens .* Set max_source_length_tokens: 40 to have their ends cut off"
    settings = Finetune(budget={"steps": 1})
    with pytest.raises(DataError, match=message):
        finetune.run(settings, str(pair_dirs.out), pairs, 1, tmp_path / "tuned")
    with pytest.raises(DataError, match=message):
        evaluate.run(Evaluate(), str(pair_dirs.out), pairs, tmp_path / "scores")
    with pytest.raises(DataError, match=message):
        generate_texts(str(pair_dirs.out), [long], "uk", "uk", Evaluate(max_new_tokens=2))
    cut = Evaluate(max_new_tokens=2, max_source_length_tokens=40, num_beams=1)
    assert len(generate_texts(str(pair_dirs.out), [long, sentences[0]], "uk", "uk", cut)) == 2


def test_cc25_is_read_as_it_writes(tiny_xlmr, tiny_mbart, xlmr_tokenizer, pieces, tmp_path, sentences, caplog):
    vocab, charsmap = pieces
    codes = ((code, 0.0) for code in FAIRSEQ_LANGUAGE_CODES[:25])
    tokenizer = MBartTokenizer(vocab=[*vocab, *codes, ("<mask>", 0.0)], _spm_precompiled_charsmap=charsmap)
    tiny_mbart.resize_token_embeddings(len(tokenizer))
    checkpoints.save(tiny_xlmr, xlmr_tokenizer, tmp_path / "source")
    checkpoints.save(tiny_mbart, tokenizer, tmp_path / "target")
    (tmp_path / "text.txt").write_text("\n".join(sentences), encoding="utf-8")
    text = TextData(train_file=str(tmp_path / "text.txt"), lang="en")
    seen = []
    whole = calibration.states

    def states(encoder, ids, mask, sites, after):
        seen.append((next(iter(sites)).side, ids))
        return whole(encoder, ids, mask, sites)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "states", states)
        transfer.run(
            EncoderTransfer(), None, str(tmp_path / "source"), str(tmp_path / "target"), text, tmp_path / "out"
        )
    assert "mBART-cc25 puts the language last" in caplog.text
    source, target = (next(ids for side, ids in seen if side == wanted) for wanted in ("source", "target"))
    assert torch.equal(source[:, :-1], target[:, :-1].masked_fill(target[:, :-1] >= len(xlmr_tokenizer) - 1, 0))
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        mine = model.encoder(tokenizer("Das Paket", return_tensors="pt")["input_ids"]).last_hidden_state
        content = xlmr_tokenizer("Das Paket", add_special_tokens=False)["input_ids"]
        expected = tiny_xlmr.base_model(torch.tensor([[*content, 2, 0]])).last_hidden_state
    assert torch.equal(mine, expected)


def test_what_cannot_be_grafted_is_refused(pair_dirs, tmp_path, mbart_tokenizer, xlmr_tokenizer):
    target = checkpoints.load_seq2seq(pair_dirs.target)
    with pytest.raises(CheckpointError, match="a MBartForConditionalGeneration has no bridge"):
        graft.train_bridge_only(target)
    target.final_logits_bias[0, 5] = -1.0
    checkpoints.save(target, mbart_tokenizer, tmp_path / "biased")
    with pytest.raises(TransferError, match="final_logits_bias"):
        transfer.run(
            EncoderTransfer(), None, pair_dirs.source, str(tmp_path / "biased"), pair_dirs.text, tmp_path / "out"
        )
    run(pair_dirs)
    with pytest.raises(CheckpointError, match="cannot be trimmed"):
        trim(checkpoints.load_seq2seq(str(pair_dirs.out)), mbart_tokenizer, ["text"])
    with pytest.raises(TransferError, match="method encoder needs source_after and text"):
        transfer.run(EncoderTransfer(), None, None, pair_dirs.target, None, tmp_path / "none")


def test_dry_run_shows_both_matrices(pair_dirs):
    result = transfer.run(
        EncoderTransfer(), None, pair_dirs.source, pair_dirs.target, pair_dirs.text, pair_dirs.out, dry_run=True
    )
    assert not pair_dirs.out.exists()
    entries = result["plan"]["entries"]
    assert graft.ENCODER_ROWS in {entry["tensor"] for entry in entries}
    assert "the source's <s>: `[lang] X </s>` is then `<s> X </s>` to it" in {entry["reason"] for entry in entries}
    assert np.sum(list(result["rows"].values())) > 0
