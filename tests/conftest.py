"""Shared fixtures: tiny tokenizers and models of the real classes and layouts, a recipe, and the command line."""

from __future__ import annotations

import gc
import importlib
import io
import json
import os
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("POLYGRAFT_JOBS", "1")  # commands run in the process that tests them

import sentencepiece
import torch
import yaml
from browser import browser, find_browser, visit  # noqa: F401 (fixtures)
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import (
    BertTokenizer,
    MBart50Tokenizer,
    MBartConfig,
    MBartForConditionalGeneration,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
    XLMRobertaTokenizer,
)
from transformers.models.mbart50.tokenization_mbart50 import FAIRSEQ_LANGUAGE_CODES
from typer.testing import CliRunner

from polygraft.cli import app
from polygraft.errors import RecipeError
from polygraft.recipe.reading import load_recipe

# A worker gets the next test when it has finished one: with the longest first, all finish together. By seconds per
# test; what is not named takes less than one.
LONGEST_FIRST = (
    "test_readme", "test_pipeline", "test_needs", "test_check", "test_adapters", "test_checkpoints",
    "test_encoder_sources", "test_saved_folders", "test_machine", "test_distill", "test_encoder", "test_shared_map",
    "test_cli_rank", "test_training",
)  # fmt: skip
# Their tests share what takes long to make.
ONE_WORKER = (
    "test_real_vocabulary", "test_diagnose", "test_two_equal_one", "test_nano", "test_browser", "test_looks",
    "test_in_a_browser",
)  # fmt: skip


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Whole files first, where tests share what takes long to make; all other tests one by one."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return file if Path(file).stem in ONE_WORKER else nodeid

    return Scheduling(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


def pytest_collection_finish() -> None:
    """Keep the libraries' million objects out of garbage collections: each training asks for three, of a second."""
    gc.collect()
    gc.freeze()


def _must_run(report: Any, may_skip: bool) -> None:
    """Turn a skip into a failure where POLYGRAFT_NO_SKIPS is set: there, what is skipped has not been tested."""
    if os.environ.get("POLYGRAFT_NO_SKIPS") and report.skipped and not may_skip and not hasattr(report, "wasxfail"):
        report.outcome, report.longrepr = "failed", f"skipped, but POLYGRAFT_NO_SKIPS is set: {report.longrepr}"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    report = yield
    needs_browser = "browser" in getattr(item, "fixturenames", ())
    _must_run(report, item.get_closest_marker("gpu") is not None or (needs_browser and find_browser() is None))
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Any:
    report = yield
    _must_run(report, may_skip=False)
    return report


SENTENCES = [
    "The library reads and writes compressed files. It supports many formats.",
    "This package contains the development files. You need it to build programs.",
    "A small editor for text files, with syntax highlighting. It runs in a terminal.",
    "La bibliothèque lit et écrit des fichiers compressés. Elle gère plusieurs formats.",
    "Ce paquet contient les fichiers de développement. Il est utile aux programmeurs.",
    "Das Paket enthält die Dateien für Entwickler. Es wird zum Bauen von Programmen gebraucht.",
    "Бібліотека читає та записує стиснені файли. Вона підтримує багато форматів.",
    "Цей пакунок містить файли для розробників. Він потрібен для збирання програм.",
    "Невеликий редактор текстових файлів з підсвічуванням синтаксису. Працює у терміналі.",
    "このパッケージには開発用ファイルが含まれています。プログラムのビルドに必要です。",
    "이 패키지는 개발 파일을 포함합니다. 프로그램을 빌드하는 데 필요합니다.",
    "Mały edytor plików tekstowych z podświetlaniem składni. Działa w terminalu.",
]


@pytest.fixture(scope="session")
def sentences() -> list[str]:
    return SENTENCES


@pytest.fixture(scope="session")
def pieces() -> tuple[list[tuple[str, float]], bytes]:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES), model_writer=model, model_type="unigram", vocab_size=400,
        hard_vocab_limit=False, character_coverage=1.0, normalization_rule_name="nmt_nfkc", minloglevel=2,
    )  # fmt: skip
    proto = sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())
    specials = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    return specials + [(p.piece, p.score) for p in proto.pieces[3:]], proto.normalizer_spec.precompiled_charsmap


@pytest.fixture(scope="session")
def xlmr_tokenizer(pieces) -> XLMRobertaTokenizer:
    vocab, charsmap = pieces
    return XLMRobertaTokenizer(vocab=[*vocab, ("<mask>", 0.0)], _spm_precompiled_charsmap=charsmap, model_max_length=64)


@pytest.fixture(scope="session")
def mbart_tokenizer(pieces) -> MBart50Tokenizer:
    vocab, charsmap = pieces
    vocab = [*vocab, *((code, 0.0) for code in FAIRSEQ_LANGUAGE_CODES), ("<mask>", 0.0)]
    tokenizer = MBart50Tokenizer(
        vocab=vocab, _spm_precompiled_charsmap=charsmap, src_lang="en_XX", tgt_lang="en_XX", model_max_length=64
    )
    tokenizer.add_tokens(["da_DK"], special_tokens=True)  # as the nano mBART has it: a language added after <mask>
    return tokenizer


@pytest.fixture(scope="session")
def wordpiece_tokenizer() -> BertTokenizer:
    """The kind of mBERT's: cased WordPiece, [UNK] for characters that it has not seen."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=350, special_tokens=specials, show_progress=False)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return BertTokenizer(vocab=tokenizer.get_vocab(), do_lower_case=False, model_max_length=64)


def make_tiny_xlmr(xlmr_tokenizer: XLMRobertaTokenizer) -> XLMRobertaForMaskedLM:
    torch.manual_seed(1)
    config = XLMRobertaConfig(
        vocab_size=len(xlmr_tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=66, type_vocab_size=1,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return XLMRobertaForMaskedLM(config).eval()


@pytest.fixture
def tiny_xlmr(xlmr_tokenizer) -> XLMRobertaForMaskedLM:
    return make_tiny_xlmr(xlmr_tokenizer)


def make_tiny_mbart(mbart_tokenizer: MBart50Tokenizer) -> MBartForConditionalGeneration:
    torch.manual_seed(2)
    config = MBartConfig(
        vocab_size=len(mbart_tokenizer), d_model=48, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=96, decoder_ffn_dim=96, max_position_embeddings=64,
        scale_embedding=True, activation_function="relu", dropout=0.0, attention_dropout=0.0,
        decoder_start_token_id=2, forced_eos_token_id=2,
    )  # fmt: skip
    return MBartForConditionalGeneration(config).eval()


@pytest.fixture
def tiny_mbart(mbart_tokenizer) -> MBartForConditionalGeneration:
    return make_tiny_mbart(mbart_tokenizer)


@pytest.fixture(scope="session")
def write_tiny_models(xlmr_tokenizer, mbart_tokenizer) -> Callable[[Path], None]:
    """Writes the two tiny checkpoints into folder/xlmr and folder/mbart."""

    def _write(folder: Path) -> None:
        pairs = ((make_tiny_xlmr, xlmr_tokenizer, "xlmr"), (make_tiny_mbart, mbart_tokenizer, "mbart"))
        for make, tokenizer, name in pairs:
            make(tokenizer).save_pretrained(folder / name)
            tokenizer.save_pretrained(folder / name)

    return _write


@pytest.fixture
def tiny_xlmr_dir(tiny_xlmr, xlmr_tokenizer, tmp_path) -> Path:
    folder = tmp_path / "tiny-xlmr"
    tiny_xlmr.save_pretrained(folder)
    xlmr_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def tiny_mbart_dir(tiny_mbart, mbart_tokenizer, tmp_path) -> Path:
    folder = tmp_path / "tiny-mbart"
    tiny_mbart.save_pretrained(folder)
    mbart_tokenizer.save_pretrained(folder)
    return folder


BASE_RECIPE = """\
name: demo
source: polygraft/nano-xlmr
text:
  train_file: text.txt
  lang: uk
pairs:
  train_file: train.jsonl
  test_file: test.jsonl
  source_lang: uk
adapt:
  budget: {steps: 100}
transfer: {}
finetune:
  budget:
    epochs: 2
"""
BASE_ARMS = """\
arms:
  plain: {adapt: null, transfer: null}
  detour:
    adapt: {learning_rate: 1e-3}
verdict: {treatment: detour, control: plain}
"""


@pytest.fixture(scope="session")
def base_recipe() -> str:
    return BASE_RECIPE


@pytest.fixture(scope="session")
def base_arms() -> str:
    return BASE_ARMS


@pytest.fixture
def base_data() -> dict[str, Any]:
    return yaml.safe_load(BASE_RECIPE)


@pytest.fixture
def tiny_study(tmp_path, tiny_xlmr_dir, tiny_mbart_dir, sentences) -> dict[str, Any]:
    """A recipe's data, without arms, on the tiny models and files of its own: two steps of fine-tuning."""
    rows = [{"text": f"{a} {b}", "summary": a} for a in sentences for b in sentences[:3]]
    files = {}
    for name, part in {"train": rows[:24], "validation": rows[24:30], "test": rows[30:]}.items():
        files[f"{name}_file"] = str(tmp_path / f"{name}.jsonl")
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in part))
    (tmp_path / "text.txt").write_text("\n".join(sentences * 2))
    short = {"budget": {"steps": 2}, "per_device_train_batch_size": 4, "precision": "fp32"}
    return {
        "name": "tiny", "output_dir": str(tmp_path / "out"), "source": str(tiny_xlmr_dir),
        "target": str(tiny_mbart_dir), "text": {"train_file": str(tmp_path / "text.txt"), "lang": "uk"},
        "pairs": {**files, "source_lang": "uk"}, "finetune": short, "evaluate": {"num_beams": 1, "max_new_tokens": 4},
    }  # fmt: skip


@pytest.fixture
def write_recipe(tmp_path) -> Callable[[str], Path]:
    def _write(text: str) -> Path:
        path = tmp_path / "r.yaml"
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    return _write


@pytest.fixture(scope="session")
def message_of() -> Callable[..., str]:
    """Loads a recipe that is wrong, and gives back what is said of it."""

    def _message(path: Path, overrides: tuple[str, ...] = ()) -> str:
        with pytest.raises(RecipeError) as caught:
            load_recipe(path, list(overrides))
        return str(caught.value)

    return _message


@pytest.fixture(scope="session")
def invoke() -> Callable[..., Any]:
    """Runs a command of polygraft in this process."""

    def _invoke(*arguments: str, stdin: str | bytes | None = None) -> Any:
        return CliRunner().invoke(app, list(arguments), input=stdin)

    return _invoke


@pytest.fixture(scope="session")
def change() -> Callable[..., None]:
    """Sets keys of a JSON file."""

    def _change(path: Path, **values: Any) -> None:
        content = json.loads(path.read_text(encoding="utf-8")) | values
        path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")

    return _change


@pytest.fixture
def fake(monkeypatch):
    """Puts a module with the given functions in the place of one of polygraft's, whether or not it was imported."""

    def _fake(name: str, **functions: Any) -> None:
        module = SimpleNamespace(**functions)
        room, _, last = f"polygraft.{name}".rpartition(".")
        monkeypatch.setitem(sys.modules, f"polygraft.{name}", module)
        monkeypatch.setattr(importlib.import_module(room), last, module, raising=False)

    return _fake
