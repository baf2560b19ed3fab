"""Every layout of an mBART's tokenizer through every verb: the table of docs/tokenizers.md, each cell a test."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    MBart50Tokenizer,
    MBartConfig,
    MBartForConditionalGeneration,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
)
from transformers.models.mbart50.tokenization_mbart50 import FAIRSEQ_LANGUAGE_CODES

from polygraft.errors import CheckpointError
from polygraft.inference.engine import generate_texts
from polygraft.models import checkpoints
from polygraft.objectives import Denoising
from polygraft.settings import Budget, Evaluate, Finetune, PairData, TextData, Trim
from polygraft.stages import adapt, evaluate, finetune, transfer
from polygraft.stages.vocabulary import run_restore, run_trim
from polygraft.transfers.methods import EmbeddingsTransfer


class Layout(NamedTuple):
    """How many codes stand before <mask>, which files there are, the class that they name, what comes behind <mask>."""

    codes: int = 52
    files: str = "tokenizer.json"
    named: str | None = "MBart50Tokenizer"
    added: tuple[str, ...] = ()
    spare_rows: int = 0
    trimmed: bool = False

    @property
    def kind(self) -> str:
        return "MBart50Tokenizer" if self.codes == 52 else "MBartTokenizer"


LAYOUTS = {
    "mBART-50": Layout(),
    "mBART-50, no class named": Layout(named=None),
    "mBART-50, cc25's class named": Layout(named="MBartTokenizer"),
    "mBART-50, SentencePiece only": Layout(files="sentencepiece.bpe.model"),
    "mBART-50, SentencePiece only, no class named": Layout(files="sentencepiece.bpe.model", named=None),
    "mBART-50, codes added": Layout(added=("be_BY", "sr_Latn"), named=None),
    "mBART-50, trimmed": Layout(trimmed=True),
    "mBART-50, spare rows": Layout(spare_rows=11, named=None),
    "cc25": Layout(25, named=None),
    "cc25, SentencePiece only": Layout(25, "sentencepiece.bpe.model", None),
    "cc25, codes added": Layout(25, named=None, added=("uk_UA", "be_BY")),
    "cc25, trimmed": Layout(25, named=None, trimmed=True),
    "cc25, spare rows": Layout(25, named=None, spare_rows=27),
}


@pytest.fixture(scope="module")
def vocabulary(pieces) -> dict[str, Any]:
    """Pieces, the normalizer of their tokenizer.json, and the same as a SentencePiece model."""
    vocab, charsmap = pieces
    kind = sentencepiece_model_pb2.ModelProto.SentencePiece
    proto = sentencepiece_model_pb2.ModelProto()
    for piece in ("<unk>", "<s>", "</s>"):
        proto.pieces.add(piece=piece, score=0.0, type=kind.UNKNOWN if piece == "<unk>" else kind.CONTROL)
    for piece, score in vocab[4:]:
        proto.pieces.add(piece=piece, score=score, type=kind.NORMAL)
    proto.normalizer_spec.precompiled_charsmap = charsmap
    proto.trainer_spec.model_type = sentencepiece_model_pb2.TrainerSpec.UNIGRAM
    codes = [(code, 0.0) for code in FAIRSEQ_LANGUAGE_CODES]
    whole = MBart50Tokenizer(vocab=[*vocab, *codes, ("<mask>", 0.0)], _spm_precompiled_charsmap=charsmap)
    content = json.loads(whole.backend_tokenizer.to_str())
    return {"pieces": vocab, "content": content, "sentencepiece.bpe.model": proto.SerializeToString()}


def expected_ids(layout: Layout, vocabulary: dict[str, Any]) -> dict[str, int]:
    """The ids as published: pieces, codes, <mask>, and what a user has added."""
    tokens = [piece for piece, _ in vocabulary["pieces"]]
    tokens += [*FAIRSEQ_LANGUAGE_CODES[: layout.codes], "<mask>", *layout.added]
    return {token: i for i, token in enumerate(tokens)}


def _tokenizer_json(layout: Layout, vocabulary: dict[str, Any]) -> str:
    ids = expected_ids(layout, vocabulary)
    first = len(vocabulary["pieces"])
    plain = {"single_word": False, "rstrip": False, "normalized": False, "special": True}
    added = [
        {"id": i, "content": token, "lstrip": token == "<mask>", **plain}
        for token, i in ids.items()
        if i < 4 or i >= first
    ]
    behind = {*layout.added}
    vocab = [*vocabulary["pieces"], *((token, 0.0) for token in list(ids)[first:] if token not in behind)]
    content = vocabulary["content"]
    model = {**content["model"], "vocab": vocab}
    return json.dumps({**content, "model": model, "added_tokens": added, "post_processor": None}, ensure_ascii=False)


@pytest.fixture(scope="module")
def text(tmp_path_factory, sentences) -> str:
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    rows = [{"id": f"d{i}", "text": s, "summary": s[: 10 + i]} for i, s in enumerate(sentences)]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, vocabulary, text):
    """Makes the folder of a layout, once."""
    made: dict[str, Path] = {}

    def _make(name: str) -> str:
        if name not in made:
            layout, folder = LAYOUTS[name], tmp_path_factory.mktemp("checkpoint")
            torch.manual_seed(3)
            config = MBartConfig(
                vocab_size=len(expected_ids(layout, vocabulary)) + layout.spare_rows, d_model=16, encoder_layers=1,
                decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16,
                decoder_ffn_dim=16, max_position_embeddings=96, scale_embedding=True, dropout=0.0, init_std=0.3,
                attention_dropout=0.0, decoder_start_token_id=2, forced_eos_token_id=2,
            )  # fmt: skip
            MBartForConditionalGeneration(config).save_pretrained(folder)
            if layout.files == "tokenizer.json":
                (folder / layout.files).write_text(_tokenizer_json(layout, vocabulary), encoding="utf-8")
            else:
                (folder / layout.files).write_bytes(vocabulary[layout.files])
            if layout.named:
                (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": layout.named}))
            if layout.trimmed:
                small = tmp_path_factory.mktemp("small")
                run_trim(Trim(train_file=[text], text_column=["summary"]), str(folder), small)
                folder = small
            made[name] = folder
        return str(made[name])

    return _make


@pytest.fixture(scope="module")
def source(tmp_path_factory, xlmr_tokenizer) -> str:
    """The masked language model of the same pieces."""
    folder = tmp_path_factory.mktemp("source")
    torch.manual_seed(4)
    config = XLMRobertaConfig(
        vocab_size=len(xlmr_tokenizer), hidden_size=12, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=66, type_vocab_size=1,
    )  # fmt: skip
    XLMRobertaForMaskedLM(config).save_pretrained(folder)
    xlmr_tokenizer.save_pretrained(folder)
    return str(folder)


ONE = {"budget": Budget(steps=1), "per_device_train_batch_size": 2}
GREEDY = Evaluate(num_beams=1, max_new_tokens=8, no_repeat_ngram_size=0)
LANGUAGES = ("en_XX", "ro_RO")  # read and written; mBART-cc25 has both
VERBS = ("adapt", "transfer", "finetune", "evaluate", "generate", "trim", "restore")
QUICK = ("mBART-50, no class named", "cc25, codes added")


def cells() -> list[Any]:
    """All layouts with all verbs, most of them slow."""
    return [
        pytest.param(name, verb, marks=[] if name in QUICK else pytest.mark.slow) for name in LAYOUTS for verb in VERBS
    ]


@pytest.fixture(scope="module")
def ran(checkpoint, source, text, tmp_path_factory):
    """Runs all verbs on a layout, each on what the one before it made, once."""
    done: dict[str, SimpleNamespace] = {}

    def _run(name: str) -> SimpleNamespace:
        if name not in done:
            start, out = checkpoint(name), tmp_path_factory.mktemp("out")
            at = {verb: str(out / verb) for verb in VERBS}
            data, pairs = (
                TextData(train_file=text, lang="en"),
                PairData(train_file=text, source_lang="en", target_lang="ro"),
            )
            adapt.run(Denoising(**ONE, max_length_tokens=32), start, data, 1, out / "adapt")
            transfer.run(EmbeddingsTransfer(mode="recentre"), None, None, at["adapt"], data, out / "transfer")
            finetune.run(Finetune(**ONE), at["transfer"], pairs, 1, out / "finetune")
            tested = PairData(train_file="", test_file=text)
            scores = evaluate.run(GREEDY, at["finetune"], tested, out / "evaluate")
            lines = [row["text"] for row in rows_of(text)]
            outputs = [best for (best,) in generate_texts(at["finetune"], lines, None, None, GREEDY)]
            run_trim(Trim(train_file=[text], text_column=["summary"]), at["finetune"], out / "trim")
            run_restore(at["trim"], at["finetune"], out / "restore")
            done[name] = SimpleNamespace(start=start, at=at, scores=scores, lines=lines, outputs=outputs)
        return done[name]

    return _run


def rows_of(file: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]


def loss_in_plain_transformers(folder: str, row: dict[str, Any], language_first: bool) -> float:
    """-log p of a reference's tokens and </s>, by the tokenizer's and the model's own idea of labels and shifting."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    batch = tokenizer(row["text"], text_target=row["summary"], return_tensors="pt")
    with torch.no_grad():
        log_p = model(**batch).logits[0].double().log_softmax(-1)
    labels = batch["labels"][0]
    losses = -log_p[torch.arange(len(labels)), labels]
    return float(losses[1:].sum() if language_first else losses[:-1].sum())


@pytest.mark.parametrize(("name", "verb"), cells())
def test_cell(ran, vocabulary, sentences, text, name, verb):
    layout, done = LAYOUTS[name], ran(name)
    first = layout.codes == 52
    if verb == "evaluate":
        rows = rows_of(str(Path(done.at["evaluate"]) / "predictions.jsonl"))
        assert {row["lang"] for row in rows} == {LANGUAGES[1]}
        for row in rows[::5]:
            pair = {"text": row["source"], "summary": row["reference"]}
            expected = loss_in_plain_transformers(done.at["finetune"], pair, first)
            assert row["loss_nats"] == pytest.approx(expected, rel=2e-5)  # measured: 8e-7
        return
    if verb == "generate":
        tokenizer = AutoTokenizer.from_pretrained(done.at["finetune"])
        model = AutoModelForSeq2SeqLM.from_pretrained(done.at["finetune"]).eval()
        for line, output in zip(done.lines[:4], done.outputs, strict=False):
            ids = model.generate(**tokenizer(line, return_tensors="pt"), max_new_tokens=8, num_beams=1)
            assert int(ids[0, 1 if first else 0]) == tokenizer.convert_tokens_to_ids(LANGUAGES[1])
            assert output == tokenizer.decode(ids[0], skip_special_tokens=True)
        return
    before, after = checkpoints.load_tokenizer(done.start), checkpoints.load_tokenizer(done.at[verb])
    plain = AutoTokenizer.from_pretrained(done.at[verb])
    assert type(before).__name__ == type(after).__name__ == type(plain).__name__ == layout.kind
    assert plain.get_vocab() == after.get_vocab()
    ids = before.get_vocab()
    if not layout.trimmed:
        assert ids == expected_ids(layout, vocabulary)
    kept = sorted(after.get_vocab(), key=after.get_vocab().__getitem__)
    assert kept == [token for token in sorted(ids, key=ids.__getitem__) if token in set(kept)]  # order is that of ids
    assert (len(kept) < len(ids)) == (verb == "trim" and not layout.trimmed)
    texts = [row["summary"] for row in rows_of(text)]  # what trimming was told to keep
    assert [after.tokenize(one) for one in texts] == [before.tokenize(one) for one in texts]
    assert after.unk_token not in after.tokenize("ﬁ")  # only a tokenizer that normalizes knows it
    wrapped = after.convert_ids_to_tokens(after(sentences[0])["input_ids"])
    source = LANGUAGES[0]
    assert (wrapped[0] if first else wrapped[-1]) == source and wrapped[-1 if first else -2] == "</s>"
    model = AutoModelForSeq2SeqLM.from_pretrained(done.at[verb])
    assert model.config.vocab_size == len(kept) + (0 if verb == "trim" or layout.trimmed else layout.spare_rows)
    start = model.generation_config.forced_bos_token_id if first else model.generation_config.decoder_start_token_id
    written = source if verb in ("adapt", "transfer") else LANGUAGES[1]
    assert after.convert_ids_to_tokens(start) == written


# What a folder may name, as checkpoints on the hub do; all of it has to outlive what makes a tokenizer anew.
NAMED = {
    "bos_token": "<s>", "model_max_length": 77, "padding_side": "left", "truncation_side": "left",
    "clean_up_tokenization_spaces": True, "src_lang": "de_DE", "tgt_lang": "fr_XX", "model_input_names": ["input_ids"],
    "extra_special_tokens": ["<note>", "<table>"], "split_special_tokens": True, "my_own_key": {"a": [1, 2]},
}  # fmt: skip


@pytest.mark.parametrize("name", ["mBART-50", "cc25, codes added", "XLM-R"])
def test_a_trimmed_tokenizer_keeps_every_attribute(name, checkpoint, source, text, tmp_path):
    """Nothing in tokenizer_config.json changes but where the tokenizer was read from, nor any flag of a token."""
    folder, named = tmp_path / "named", dict(NAMED)
    shutil.copytree(source if name == "XLM-R" else checkpoint(name), folder)
    if name == "XLM-R":
        named = {key: value for key, value in named.items() if not key.endswith("_lang")}
    config = folder / "tokenizer_config.json"
    old = json.loads(config.read_text()) if config.is_file() else {}
    config.write_text(json.dumps(old | named))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    flags = {"lstrip": True, "rstrip": True, "single_word": True, "normalized": False}
    tokenizer.add_tokens([AddedToken("<own>", special=False, **flags)])
    tokenizer.save_pretrained(folder)
    kind = checkpoints.load_any(str(folder))
    kind.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    kind.save_pretrained(folder)
    run_trim(Trim(train_file=[text], text_column=["summary"]), str(folder), tmp_path / "small")
    before, after = (json.loads((one / "tokenizer_config.json").read_text()) for one in (folder, tmp_path / "small"))
    place = {"is_local", "local_files_only", "name_or_path"}
    assert {k: v for k, v in after.items() if k not in place} == {k: v for k, v in before.items() if k not in place}
    assert set(named.pop("extra_special_tokens")) <= set(after["extra_special_tokens"])
    assert {key: value for key, value in after.items() if key in named} == named
    full, small = (checkpoints.load_tokenizer(str(one)) for one in (folder, tmp_path / "small"))
    assert full.special_tokens_map == small.special_tokens_map
    told = [{token.content: repr(token) for token in one.added_tokens_decoder.values()} for one in (full, small)]
    assert told[0] == told[1] and "<own>" in told[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"drop": ["uk_UA"], "named": None}, "its files do not tell whether its tokenizer is of MBartTokenizer"),
        ({"drop": ["uk_UA"], "named": "MBart50Tokenizer"}, None),
        ({"drop": ["<mask>", "sl_SI"], "named": "XLMRobertaTokenizer"}, "is a XLMRobertaTokenizer; an mBART needs one"),
        ({"swap": True, "named": "MBart50Tokenizer"}, None),
    ],
)
def test_what_is_neither_family_is_asked_for(checkpoint, tmp_path, changes, message):
    folder = tmp_path / "odd"
    shutil.copytree(checkpoint("mBART-50"), folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    dropped = changes.get("drop", ())
    vocab = [entry for entry in content["model"]["vocab"] if entry[0] not in dropped]
    place = {piece: i for i, (piece, _) in enumerate(vocab)}
    added = [{**token, "id": place[token["content"]]} for token in content["added_tokens"] if token["content"] in place]
    content["model"]["vocab"], content["added_tokens"] = vocab, added
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "tokenizer_config.json").unlink()
    if changes["named"]:
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": changes["named"]}))
    if message:
        with pytest.raises(CheckpointError, match=message):
            checkpoints.load_tokenizer(str(folder))
    else:
        assert checkpoints.load_tokenizer(str(folder)).get_vocab().items() >= place.items()
