"""Languages: what training records in a checkpoint, plain transformers obeys, and generate and evaluate take."""

from __future__ import annotations

import json

import pytest
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from polygraft.errors import DataError, RecipeError
from polygraft.inference.engine import generate_texts
from polygraft.models import checkpoints
from polygraft.models.recorded import KEY, choose, completed, languages_of, record
from polygraft.settings import Budget, Evaluate, Finetune, PairData, Trim
from polygraft.stages import evaluate, finetune, vocabulary

TUNE = Finetune(budget=Budget(steps=1), per_device_train_batch_size=2)
GREEDY = Evaluate(num_beams=1, max_new_tokens=6)


@pytest.fixture
def pairs(tmp_path, sentences):
    rows = [{"text": s, "summary": s[:20], "from": ("en", "de")[i % 2]} for i, s in enumerate(sentences[:6])]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def tuned(tiny_mbart_dir, pairs, tmp_path):
    """Fine-tunes, and gives the folder."""

    def _tune(model=tiny_mbart_dir, **languages):
        out = tmp_path / "tuned"
        finetune.run(TUNE, str(model), PairData(train_file=pairs, **languages), 1, out)
        return str(out)

    return _tune


def test_what_finetuning_records_is_obeyed_with_and_without_polygraft(tuned, sentences, pairs, tmp_path, capsys):
    name = tuned(source_lang="en", target_lang="ukr_Cyrl")
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(name), AutoTokenizer.from_pretrained(name)
    code = tokenizer.convert_tokens_to_ids("uk_UA")
    assert (tokenizer.src_lang, tokenizer.tgt_lang) == ("en_XX", "uk_UA")
    outputs = model.generate(**tokenizer(sentences[0], return_tensors="pt"), num_beams=1, max_new_tokens=6)
    assert outputs[0, 1] == code
    capsys.readouterr()
    taken = generate_texts(name, sentences[:2], None, None, GREEDY)
    said = "languages: reads en_XX (recorded in the checkpoint), writes uk_UA (recorded in the checkpoint)\n"
    assert capsys.readouterr().err == said
    assert taken == generate_texts(name, sentences[:2], "en", "uk", GREEDY)
    scores = evaluate.run(GREEDY, name, PairData(train_file="", test_file=pairs, source_lang="en"), tmp_path / "scores")
    assert set(scores["systems"]["model"]) == {"en_XX-uk_UA", "all"}


def test_another_language_is_taken_and_said(tuned, capsys):
    name = tuned(source_lang="en", target_lang="uk")
    capsys.readouterr()
    assert choose(name, checkpoints.load_tokenizer(name), "de", "fr") == ("de_DE", "fr_XX")
    assert capsys.readouterr().err == (
        "languages: reads de_DE (given, but the checkpoint was tuned for en_XX), "
        "writes fr_XX (given, but the checkpoint was tuned for uk_UA)\n"
    )
    with pytest.raises(DataError, match="'zh-Hant' is written in Hant"):
        choose(name, checkpoints.load_tokenizer(name), None, "zh-Hant")


def test_several_languages_are_asked_for(tuned):
    name = tuned(source_lang_column="from", target_lang="uk")
    tokenizer = checkpoints.load_tokenizer(name)
    with pytest.raises(
        RecipeError, match=r"reads is not said, and it was tuned for de_DE and en_XX\. Give --source-lang"
    ):
        choose(name, tokenizer, None, None)
    assert choose(name, tokenizer, "de", None) == ("de_DE", "uk_UA")
    columns = completed(PairData(train_file="", source_lang_column="from"), name, tokenizer)
    assert (columns.source_lang, columns.target_lang) == (None, "uk_UA")


def test_a_model_that_writes_what_it_reads_goes_on_so(tuned):
    name = tuned(source_lang_column="from")
    tokenizer = checkpoints.load_tokenizer(name)
    assert choose(name, tokenizer, "en", None) == ("en_XX", "en_XX")
    columns = completed(PairData(train_file="", source_lang_column="from"), name, tokenizer)
    assert (columns.source_lang, columns.target_lang) == (None, None)  # each row's own


def test_each_source_has_the_target_that_it_was_translated_into(tiny_mbart, tiny_mbart_dir, mbart_tokenizer, tmp_path):
    """Reading and writing the same three languages, as a model that writes what it reads does, means no such thing."""
    directions = [("de_DE", "fr_XX"), ("fr_XX", "de_DE"), ("de_DE", "uk_UA"), ("uk_UA", "de_DE")]
    record(tiny_mbart, mbart_tokenizer, *map(set, zip(*directions, strict=True)), directions)
    tiny_mbart.save_pretrained(tmp_path / "model")
    mbart_tokenizer.save_pretrained(tmp_path / "model")
    name = str(tmp_path / "model")
    tokenizer = checkpoints.load_tokenizer(name)
    assert choose(name, tokenizer, "uk", None) == ("uk_UA", "de_DE")
    assert choose(name, tokenizer, "fr", None) == ("fr_XX", "de_DE")
    assert choose(name, tokenizer, "de", "uk") == ("de_DE", "uk_UA")
    with pytest.raises(RecipeError, match=r"which language it writes is not said, and it was tuned for .*uk_UA\. Give"):
        choose(name, tokenizer, "de", None)


def test_training_with_a_trimmed_vocabulary_records_the_same(tiny_mbart_dir, pairs, tmp_path):
    sides = {"train_file": pairs, "source_lang_column": "from", "target_lang": None}
    settings = TUNE.model_copy(update={"trim_vocabulary": True})
    finetune.run(settings, str(tiny_mbart_dir), PairData(**sides), 1, tmp_path / "trimmed")
    finetune.run(TUNE, str(tiny_mbart_dir), PairData(**sides), 1, tmp_path / "whole")
    kept = [getattr(checkpoints.load_config(str(tmp_path / name)), KEY, None) for name in ("trimmed", "whole")]
    assert kept[0] == kept[1]
    assert kept[0]["directions"] == [["de_DE", "de_DE"], ["en_XX", "en_XX"]]


def test_a_checkpoint_of_before_that_writes_what_it_reads(tiny_mbart, mbart_tokenizer, tmp_path):
    setattr(tiny_mbart.config, KEY, {"source": ["de_DE", "en_XX"], "target": ["de_DE", "en_XX"]})
    tiny_mbart.save_pretrained(tmp_path)
    mbart_tokenizer.save_pretrained(tmp_path)
    assert choose(str(tmp_path), checkpoints.load_tokenizer(str(tmp_path)), "en", None) == ("en_XX", "en_XX")


def test_nothing_recorded_is_asked_for(tiny_mbart_dir):
    tokenizer = checkpoints.load_tokenizer(str(tiny_mbart_dir))
    for given, side in (((None, "uk"), "source"), (("uk", None), "target")):
        with pytest.raises(RecipeError, match=rf"the checkpoint does not record it\. Give --{side}-lang"):
            choose(str(tiny_mbart_dir), tokenizer, *given)


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("mbart-large-50", ()),
        ("mbart-large-50-many-to-one-mmt", ("en_XX",)),
    ],
)
def test_published_configurations(published, name, targets):
    folder = str(published(name))
    found = languages_of(
        checkpoints.load_config(folder), checkpoints.load_generation_config(folder), checkpoints.load_tokenizer(folder)
    )
    assert found == ((), targets, ())


def test_it_outlives_trimming_restoring_and_new_languages(tuned, tiny_mbart_dir, pairs, tmp_path):
    vocabulary.run_add_languages({"be_BY": "uk"}, str(tiny_mbart_dir), tmp_path / "more")
    vocabulary.run_trim(Trim(train_file=[pairs]), str(tmp_path / "more"), tmp_path / "small")
    name = tuned(tmp_path / "small", source_lang="de", target_lang="be")
    vocabulary.run_restore(name, str(tmp_path / "more"), tmp_path / "full")
    vocabulary.run_trim(Trim(train_file=[pairs]), str(tmp_path / "full"), tmp_path / "again")
    vocabulary.run_add_languages({"nn_NO": "da"}, str(tmp_path / "again"), tmp_path / "last")
    for folder in (name, *(str(tmp_path / kind) for kind in ("full", "again", "last"))):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert choose(folder, checkpoints.load_tokenizer(folder), None, None) == ("de_DE", "be_BY")
        assert tokenizer.src_lang == "de_DE"
        model = AutoModelForSeq2SeqLM.from_pretrained(folder)
        assert model.generation_config.forced_bos_token_id == tokenizer.convert_tokens_to_ids("be_BY")
        assert getattr(model.config, KEY) == {"source": ["de_DE"], "target": ["be_BY"]}


def test_a_code_that_its_class_does_not_load_with_is_not_the_tokenizers(tiny_mbart, mbart_tokenizer, tmp_path):
    """The trap itself: should plain transformers load it, such a code may be recorded there, too."""
    mbart_tokenizer.src_lang = "en_XX"  # it is shared by all tests
    record(tiny_mbart, mbart_tokenizer, ["da_DK"], ["da_DK"])
    assert mbart_tokenizer.src_lang == "en_XX"
    tiny_mbart.save_pretrained(tmp_path)
    mbart_tokenizer.src_lang = "da_DK"
    mbart_tokenizer.save_pretrained(tmp_path)
    mbart_tokenizer.src_lang = "en_XX"
    with pytest.raises(KeyError, match="da_DK"):
        AutoTokenizer.from_pretrained(tmp_path)
