"""Exported models: what CTranslate2 makes of them, beside the checkpoints that they are of."""

from __future__ import annotations

import json

import ctranslate2
import numpy as np
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, MBartTokenizer

from polygraft.data.reading import read_rows
from polygraft.errors import CheckpointError, RecipeError
from polygraft.inference.engine import EXPORT_FILE, Checkpoint, Exported, open_engine
from polygraft.models import checkpoints
from polygraft.models.recorded import record
from polygraft.settings import Bottleneck, Decoding, Export, Finetune, Generate, InputData, PairData
from polygraft.stages import export, finetune, vocabulary

SETTINGS = Export(num_beams=2, max_new_tokens=10, per_device_eval_batch_size=4)


@pytest.fixture
def tuned(tiny_mbart, mbart_tokenizer, tmp_path):
    """A checkpoint whose outputs depend on its inputs and end at different times, and which records its languages."""
    torch.manual_seed(4)
    with torch.no_grad():
        for weight in tiny_mbart.parameters():
            if weight.ndim == 2:
                weight.normal_(std=0.3)
        tiny_mbart.final_logits_bias.normal_()  # it has to be carried
        tiny_mbart.final_logits_bias[0, mbart_tokenizer.eos_token_id] += 2
    record(tiny_mbart, mbart_tokenizer, ["uk_UA"], ["en_XX"])
    checkpoints.save(tiny_mbart, mbart_tokenizer, tmp_path / "tuned", ["en_XX"])
    return str(tmp_path / "tuned")


@pytest.fixture
def pairs(sentences, tmp_path):
    rows = [{"text": text, "summary": text[: 8 + 3 * i]} for i, text in enumerate(sentences)]
    (tmp_path / "v.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return PairData(validation_file=str(tmp_path / "v.jsonl"))


GREEDY = Decoding(num_beams=1, max_new_tokens=10, no_repeat_ngram_size=0)
CASES = {
    "greedy": GREEDY,
    "cut short": GREEDY.model_copy(update={"max_new_tokens": 4}),
    "not too short": Generate(num_beams=1, max_new_tokens=10, min_new_tokens=6, no_repeat_ngram_size=0),
    "no repeats": GREEDY.model_copy(update={"no_repeat_ngram_size": 2}),
}


def test_what_it_writes_is_what_the_checkpoint_writes(tuned, pairs, sentences, tmp_path):
    """Greedily to the token; with beams nearly, since CTranslate2 ends a search by another rule (docs/export.md)."""
    found = export.run(SETTINGS, tuned, pairs, tmp_path / "out")
    original, exported = open_engine(tuned), open_engine(str(tmp_path / "out"))
    assert isinstance(original, Checkpoint) and isinstance(exported, Exported)
    assert exported.languages == original.languages
    codes = ["uk_UA"] * len(sentences), ["en_XX"] * len(sentences)
    for name, settings in CASES.items():
        ours = exported.decode([*sentences, " "], [*codes[0], "uk_UA"], [*codes[1], "en_XX"], settings)
        assert ours[:-1] == original.decode(sentences, *codes, settings), name
        assert not any(ours[-1]), "a blank text has blank outputs"
        assert len({one[0] for one in ours}) > 4, "they depend on the input"
    assert found["log_probability_error"]["max"] < 1e-4  # measured: 6e-6 nats
    kept = json.loads((tmp_path / "out" / EXPORT_FILE).read_text())
    assert kept["parity"] == found
    assert found["documents"] == len(sentences)
    assert found["identical_outputs"] >= len(sentences) / 2
    assert found["bytes"]["exported"] == (tmp_path / "out" / "model.bin").stat().st_size


def test_log_probabilities_of_an_output_are_plain_transformers_own(tuned, pairs, sentences, tmp_path):
    """Without polygraft on either side: CTranslate2's scores beside a plain forward pass."""
    export.run(SETTINGS, tuned, pairs, tmp_path / "out")
    tokenizer, model = AutoTokenizer.from_pretrained(tuned), AutoModelForSeq2SeqLM.from_pretrained(tuned).eval()
    translator = ctranslate2.Translator(str(tmp_path / "out"))
    tokenizer.src_lang, tokenizer.tgt_lang = "uk_UA", "en_XX"
    for text in sentences[:4]:
        batch = tokenizer(text, text_target=text[:20], return_tensors="pt")
        with torch.inference_mode():
            expected = model(**batch).logits[0].log_softmax(-1).gather(1, batch["labels"].T)[1:, 0]
        source, target = (tokenizer.convert_ids_to_tokens(batch[key][0]) for key in ("input_ids", "labels"))
        (scored,) = translator.score_batch([source], [target[:-1]])
        np.testing.assert_allclose(scored.log_probs[1:], expected, atol=1e-4)


def test_cc25(tuned, pairs, pieces, tmp_path, sentences):
    tokenizer = MBartTokenizer(vocab=pieces[0], src_lang="fr_XX", tgt_lang="en_XX")
    model = checkpoints.load_seq2seq(tuned)
    model.resize_token_embeddings(len(tokenizer))
    model.generation_config.forced_bos_token_id = None
    record(model, tokenizer, ["fr_XX"], ["en_XX"])
    checkpoints.save(model, tokenizer, tmp_path / "cc25", ["en_XX"])
    found = export.run(SETTINGS, str(tmp_path / "cc25"), pairs, tmp_path / "out")
    assert found["log_probability_error"]["max"] < 1e-4
    codes = ["fr_XX"] * len(sentences), ["en_XX"] * len(sentences)
    engines = open_engine(str(tmp_path / "cc25")), open_engine(str(tmp_path / "out"))
    ours, theirs = (engine.decode(sentences, *codes, GREEDY) for engine in engines)
    assert ours == theirs


def test_an_added_language_and_a_trimmed_vocabulary(tuned, pairs, sentences, tmp_path):
    """A tokenizer's own `src_lang` cannot be an added language: plain inputs begin with en_XX, ours with be_BY."""
    vocabulary.run_add_languages({"be_BY": "uk_UA"}, tuned, tmp_path / "be")
    texts = PairData(**pairs.model_dump(exclude={"source_lang", "target_lang"}), source_lang="be", target_lang="be")
    export.run(SETTINGS, str(tmp_path / "be"), texts, tmp_path / "out")
    codes = ["be_BY"] * len(sentences), ["be_BY"] * len(sentences)
    exported = open_engine(str(tmp_path / "out"))
    assert exported.decode(sentences, *codes, GREEDY) == open_engine(str(tmp_path / "be")).decode(
        sentences, *codes, GREEDY
    )
    (found,) = exported.translator.translate_batch(
        [["be_BY", "▁a", "</s>"]], target_prefix=[["be_BY"]], max_decoding_length=8
    )
    assert found.hypotheses[0][0] == "be_BY" and "en_XX" not in found.hypotheses[0][:2]


def test_int8_is_a_quarter_of_the_size(tuned, pairs, tmp_path):
    found = export.run(SETTINGS.model_copy(update={"quantization": "int8"}), tuned, pairs, tmp_path / "out")
    assert found["bytes"]["exported"] < 0.4 * found["bytes"]["original"]
    assert found["log_probability_error"]["mean"] < 0.5


def test_generate_takes_the_folder_as_it_is(tuned, pairs, sentences, tmp_path):
    from polygraft.runs.generation import generate_file

    export.run(SETTINGS, tuned, pairs, tmp_path / "out")
    settings = Generate(num_beams=1, max_new_tokens=8)
    made = []
    for model in (tuned, str(tmp_path / "out")):
        output = tmp_path / f"{len(made)}.txt"
        generate_file(model, InputData(input_file=str(pairs.validation_file)), output, settings)
        made.append(output.read_text())
    assert made[0] == made[1] and len(made[0].splitlines()) == len(sentences)


def test_what_cannot_be_held_is_refused_with_the_reason(tuned, pairs, tiny_mbart, mbart_tokenizer, tmp_path):
    from polygraft.models import bottleneck

    with pytest.raises(RecipeError, match="--validation-file: is missing"):
        export.run(SETTINGS, tuned, PairData(), tmp_path / "out")
    tiny_mbart.resize_token_embeddings(len(mbart_tokenizer) + 8)
    checkpoints.save(tiny_mbart, mbart_tokenizer, tmp_path / "larger")
    with pytest.raises(CheckpointError, match=r"its tokenizer has \d+ tokens, its model \d+ rows"):
        export.run(SETTINGS, str(tmp_path / "larger"), pairs, tmp_path / "out")
    network = checkpoints.load_seq2seq(tuned)
    bottleneck.attach(network, Bottleneck(bottleneck_size=2), "uk")
    bottleneck.activate(network, ["uk"])
    checkpoints.save(network, mbart_tokenizer, tmp_path / "adapted")
    with pytest.raises(CheckpointError, match="has bottleneck adapters, which cannot be merged"):
        export.run(SETTINGS, str(tmp_path / "adapted"), pairs, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_patience_stands_for_beams_that_do_not_stop_early(tmp_path, monkeypatch):
    """Of a fine-tuned nano mBART's outputs: more are those of transformers' default than if searches ended early."""
    from polygraft.inference import engine

    sample = {split: f"polygraft/sample/de/{split}.parquet" for split in ("train", "validation")}
    pairs = PairData(**{f"{split}_file": name for split, name in sample.items()}, source_lang="de")
    how = {"budget": {"epochs": 1}, "learning_rate": 1e-3, "per_device_train_batch_size": 8, "precision": "fp32"}
    lengths = {"max_source_length_tokens": 128, "max_target_length_tokens": 32}
    finetune.run(Finetune(**how, **lengths), "polygraft/nano-mbart", pairs, 1, tmp_path / "tuned")
    settings = Export(max_source_length_tokens=128, max_new_tokens=48, max_samples=4)
    export.run(settings, str(tmp_path / "tuned"), pairs, tmp_path / "out")
    texts = [row["text"] for row in read_rows(sample["validation"], ["text"])]
    codes = ["de_DE"] * len(texts), ["de_DE"] * len(texts)
    expected = open_engine(str(tmp_path / "tuned")).decode(texts, *codes, settings)
    equal = {}
    for patience in (1, 2, 3, 4, 6, 8):
        monkeypatch.setattr(engine, "PATIENCE", patience)
        ours = open_engine(str(tmp_path / "out")).decode(texts, *codes, settings)
        equal[patience] = sum(a == b for a, b in zip(ours, expected, strict=True))
    print(len(texts), equal)
    assert equal[4] > equal[1] + 0.1 * len(texts), equal


@pytest.mark.parametrize("name", ["model.bin", "shared_vocabulary.json"])
def test_files_that_are_not_as_they_were_written_are_refused(tuned, pairs, tmp_path, name):
    """CTranslate2 would believe them: one wrong byte in its model can be a read beyond its memory."""
    export.run(SETTINGS, tuned, pairs, tmp_path / "out")
    content = (tmp_path / "out" / name).read_bytes()
    (tmp_path / "out" / name).write_bytes(content[:-3] + b"0" + content[-2:])
    with pytest.raises(CheckpointError, match=f"{name} is not as it was written"):
        open_engine(str(tmp_path / "out")).translator  # noqa: B018
    (tmp_path / "out" / name).unlink()
    with pytest.raises(CheckpointError, match="Export it again"):
        open_engine(str(tmp_path / "out")).translator  # noqa: B018
