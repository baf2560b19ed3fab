"""evaluate.py: the files it writes, the loss of references against a token-by-token computation, plain reloading."""

from __future__ import annotations

import errno
import json
import math
import os

import pytest
import torch
from sacrebleu.metrics import CHRF
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, MBartTokenizer

from polygraft.data.dataset import pair_codes
from polygraft.data.files import write_atomically
from polygraft.errors import CheckpointError, DataError, RecipeError
from polygraft.objectives import seq2seq
from polygraft.scoring.metrics import METRICS
from polygraft.scoring.tokens import UnicodeTokenizer
from polygraft.settings import Evaluate, PairData
from polygraft.stages import evaluate

SETTINGS = Evaluate(num_beams=2, max_new_tokens=8, no_repeat_ngram_size=3, per_device_eval_batch_size=4, lead_tokens=5)


@pytest.fixture
def model_dir(tiny_mbart, mbart_tokenizer, tmp_path):
    torch.manual_seed(4)
    with torch.no_grad():
        for weight in tiny_mbart.parameters():
            if weight.ndim == 2:
                weight.normal_(std=0.3)  # sharp, so that outputs depend on inputs
        tiny_mbart.final_logits_bias.normal_()  # a loss that forgets this buffer is wrong
    tiny_mbart.save_pretrained(tmp_path / "finetune")
    mbart_tokenizer.save_pretrained(tmp_path / "finetune")
    return tmp_path / "finetune"


@pytest.fixture
def test_file(tmp_path, sentences):
    path = tmp_path / "test.jsonl"
    languages = ["en"] * 3 + ["fr"] * 2 + ["de"] + ["uk"] * 3 + ["ja", "ko", "pl"]
    rows = [
        {"id": f"d{i}", "text": text, "summary": text.split(".")[0][: 8 + 3 * i], "lang": lang}
        for i, (text, lang) in enumerate(zip(sentences, languages, strict=True))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def pairs_of(test_file, **settings) -> PairData:
    return PairData(train_file="unused.jsonl", test_file=str(test_file), **settings)


@pytest.fixture
def mixed(test_file) -> PairData:
    return pairs_of(test_file, source_lang_column="lang", target_lang_column="lang")


def read_predictions(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]


def reference_loss(model, tokenizer, source: str, reference: str, code: str) -> tuple[float, int]:
    """One document, one token at a time, through the plain model: the sum of -log p of `reference </s>`."""
    tokenizer.src_lang = code
    inputs = tokenizer(source, return_tensors="pt")
    prefix = [2, tokenizer.convert_tokens_to_ids(code)]
    total = 0.0
    wanted = [*tokenizer(reference, add_special_tokens=False)["input_ids"], 2]
    for token in wanted:
        logits = model(**inputs, decoder_input_ids=torch.tensor([prefix])).logits[0, -1]
        total -= float(logits.double().log_softmax(-1)[token])
        prefix.append(token)
    return total, len(wanted)


def test_predictions_and_losses_equal_the_plain_model(model_dir, mixed, tmp_path):
    evaluate.run(SETTINGS, str(model_dir), mixed, tmp_path / "evaluate")
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(model_dir), AutoTokenizer.from_pretrained(model_dir)
    rows = read_predictions(tmp_path / "evaluate")
    assert [row["id"] for row in rows] == [f"d{i}" for i in range(12)]
    with torch.no_grad():
        for row in rows:
            tokenizer.src_lang = row["lang"]
            inputs = tokenizer(row["source"], return_tensors="pt")
            generated = model.generate(
                **inputs, forced_bos_token_id=tokenizer.convert_tokens_to_ids(row["lang"]),
                num_beams=2, max_new_tokens=8, no_repeat_ngram_size=3,
            )  # fmt: skip
            assert row["prediction"] == tokenizer.batch_decode(generated, skip_special_tokens=True)[0]
            loss, count = reference_loss(model, tokenizer, row["source"], row["reference"], row["lang"])
            assert row["reference_tokens"] == count
            assert row["loss_nats"] == pytest.approx(loss, rel=1e-5)  # measured 3e-7
    assert len({row["prediction"] for row in rows}) > 6


def test_scores_hold_every_language_all_systems_and_signatures(model_dir, mixed, tmp_path):
    result = evaluate.run(SETTINGS, str(model_dir), mixed, tmp_path / "evaluate")
    assert json.loads((tmp_path / "evaluate" / "scores.json").read_text(encoding="utf-8")) == result
    assert result["documents"] == 12
    languages = ["de_DE", "en_XX", "fr_XX", "ja_XX", "ko_KR", "pl_PL", "uk_UA", "all"]
    assert [list(system) for system in result["systems"].values()] == [languages] * 3
    assert set(result["systems"]["model"]["uk_UA"]) == set(result["signature"]) == set(METRICS)
    assert set(METRICS) - set(result["systems"]["lead"]["uk_UA"]) == {"loss_per_token"}
    rows = read_predictions(tmp_path / "evaluate")
    tokenize = UnicodeTokenizer().tokenize
    words = [(tokenize(row["lead"]), set(tokenize(row["source"]))) for row in rows]
    copied = [sum(word in known for word in lead) / len(lead) for lead, known in words]
    assert result["systems"]["lead"]["all"]["copy_rate"]["score"] == pytest.approx(sum(copied) / len(copied))
    spoken = result["systems"]["reference"]["all"]
    assert set(spoken) == {"copy_rate", "wrong_language", "repeats"}
    assert spoken["wrong_language"]["score"] == 0 < result["systems"]["model"]["all"]["wrong_language"]["score"]
    rows = [row for row in rows if row["lang"] == "uk_UA"]
    expected = sum(row["loss_nats"] for row in rows) / sum(row["reference_tokens"] for row in rows)
    loss = result["systems"]["model"]["uk_UA"]["loss_per_token"]
    assert loss["score"] == pytest.approx(expected)
    assert loss["low"] < expected < loss["high"]
    assert not list((tmp_path / "evaluate").glob(".*"))


def test_lead_is_the_beginning_of_the_source(mbart_tokenizer, sentences):
    leads = evaluate.lead_baseline(mbart_tokenizer, [*sentences, "", "a"], 5)
    for lead, text in zip(leads, [*sentences, "", "a"], strict=True):
        assert "".join(text.split()).startswith("".join(lead.split()))
        assert len(mbart_tokenizer(lead, add_special_tokens=False)["input_ids"]) <= 6
    assert all(leads[:12])
    assert leads[12:] == ["", "a"]


@pytest.mark.parametrize("most_logits", [2**26, 1])
def test_losses_do_not_depend_on_the_batches(tiny_mbart, mbart_tokenizer, sentences, monkeypatch, most_logits):
    monkeypatch.setattr(seq2seq, "CHUNK_LOGITS", most_logits)
    rows = [{"id": str(i), "text": text, "summary": text[: 5 + 2 * i]} for i, text in enumerate(sentences)]
    pairs = PairData(train_file="unused", source_lang="en")
    whole = Evaluate(per_device_eval_batch_size=5)
    losses, counts = evaluate.reference_losses(tiny_mbart, mbart_tokenizer, rows, pairs, whole)
    for row, loss, count in zip(rows, losses, counts, strict=True):
        (alone,), (count_alone,) = evaluate.reference_losses(tiny_mbart, mbart_tokenizer, [row], pairs, whole)
        assert (loss, count) == (pytest.approx(alone, rel=1e-5), count_alone)


def test_language_token_of_cc25_is_left_out_at_the_end(tiny_mbart, pieces, sentences):
    vocab, charsmap = pieces
    tokenizer = MBartTokenizer(
        vocab=[*vocab, ("en_XX", 0.0), ("ja_XX", 0.0), ("<mask>", 0.0)], _spm_precompiled_charsmap=charsmap
    )
    tokenizer.model_max_length = 64
    code = tokenizer.convert_tokens_to_ids("en_XX")
    rows = [{"id": str(i), "text": text, "summary": text[:20]} for i, text in enumerate(sentences[:3])]
    pairs = PairData(train_file="unused", source_lang="en")
    losses, counts = evaluate.reference_losses(tiny_mbart, tokenizer, rows, pairs, Evaluate())
    for row, loss, count in zip(rows, losses, counts, strict=True):
        source = [*tokenizer(row["text"], add_special_tokens=False)["input_ids"], 2, code]
        wanted = [*tokenizer(row["summary"], add_special_tokens=False)["input_ids"], 2]
        with torch.no_grad():
            logits = tiny_mbart(
                input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([[code, *wanted[:-1]]])
            ).logits[0]
        expected = -logits.double().log_softmax(-1)[torch.arange(len(wanted)), torch.tensor(wanted)].sum()
        assert (loss, count) == (pytest.approx(float(expected), rel=1e-5), len(wanted))


def test_max_samples_and_a_target_language_of_its_own(model_dir, test_file, tmp_path):
    settings = SETTINGS.model_copy(update={"max_samples": 4})
    pairs = pairs_of(test_file, source_lang="en", target_lang="ukr_Cyrl")
    assert evaluate.run(settings, str(model_dir), pairs, tmp_path / "evaluate")["documents"] == 4
    rows = read_predictions(tmp_path / "evaluate")
    assert {(row["source_lang"], row["lang"]) for row in rows} == {("en_XX", "uk_UA")}


def test_translations_have_scores_per_direction_beside_the_copied_source(model_dir, tmp_path, sentences):
    """Of each direction, what sacreBLEU says of its documents alone: two sources of one target do not mix."""
    directions = [("en", "de"), ("fr", "de"), ("de", "fr")]
    rows = [
        {"text": text, "summary": text[3:20], "from": source, "to": target}
        for text, (source, target) in zip(sentences, directions * 4, strict=True)
    ]
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    settings = SETTINGS.model_copy(update={"lead_tokens": 0})
    pairs = pairs_of(path, source_lang_column="from", target_lang_column="to")
    scores = evaluate.run(settings, str(model_dir), pairs, tmp_path / "evaluate")["systems"]
    assert list(scores["model"]) == ["de_DE-fr_XX", "en_XX-de_DE", "fr_XX-de_DE", "all"]
    written = read_predictions(tmp_path / "evaluate")
    assert all(row["lead"] == row["source"] == line["text"] for row, line in zip(written, rows, strict=True))
    for direction in list(scores["model"])[:3]:
        mine = [row for row in written if f"{row['source_lang']}-{row['lang']}" == direction]
        assert len(mine) == 4
        references = [[row["reference"] for row in mine]]
        for system, field in (("model", "prediction"), ("lead", "source")):
            expected = CHRF(word_order=2).corpus_score([row[field] for row in mine], references).score
            assert scores[system][direction]["chrf++"]["score"] == pytest.approx(expected)


def test_languages_of_rows(mbart_tokenizer):
    rows = [{"from": "uk", "to": "ja"}, {"from": "fr_XX", "to": "en"}]

    def codes(**settings):
        return pair_codes(rows, PairData(train_file="x", **settings), mbart_tokenizer)

    assert codes(source_lang="de") == (["de_DE"] * 2, ["de_DE"] * 2)
    assert codes(source_lang_column="from") == (["uk_UA", "fr_XX"], ["uk_UA", "fr_XX"])
    assert codes(source_lang_column="from", target_lang="it") == (["uk_UA", "fr_XX"], ["it_IT"] * 2)
    assert codes(source_lang="pl", target_lang_column="to") == (["pl_PL"] * 2, ["ja_XX", "en_XX"])


def test_what_is_wrong_is_said_before_anything_is_written(model_dir, test_file, tmp_path, tiny_mbart, mbart_tokenizer):
    out_dir = tmp_path / "evaluate"
    with pytest.raises(RecipeError, match=r"pairs\.test_file: missing"):
        evaluate.run(SETTINGS, str(model_dir), PairData(train_file="x"), out_dir)
    with pytest.raises(DataError, match="'xx'"):
        evaluate.run(SETTINGS, str(model_dir), pairs_of(test_file, source_lang="xx", target_lang="en"), out_dir)
    with pytest.raises(DataError, match="no column 'title'"):
        evaluate.run(SETTINGS, str(model_dir), pairs_of(test_file, summary_column="title", source_lang="en"), out_dir)
    with torch.no_grad():
        tiny_mbart.model.shared.weight.fill_(math.nan)
    tiny_mbart.save_pretrained(tmp_path / "diverged")
    mbart_tokenizer.save_pretrained(tmp_path / "diverged")
    with pytest.raises(CheckpointError, match="12 of 12 references is not a number"):
        evaluate.run(
            SETTINGS, str(tmp_path / "diverged"), pairs_of(test_file, source_lang="en", target_lang="en"), out_dir
        )
    assert not out_dir.exists()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "scores.json"
    write_atomically(path, "old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
