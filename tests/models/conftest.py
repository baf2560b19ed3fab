"""The real vocabulary: the 250,002 entries of XLM-R, and folders laid out like the public checkpoints."""

from __future__ import annotations

import base64
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sentencepiece import sentencepiece_model_pb2
from transformers import AutoConfig, AutoModelForMaskedLM, AutoModelForSeq2SeqLM
from transformers.models.mbart50.tokenization_mbart50 import FAIRSEQ_LANGUAGE_CODES

FIXTURES = Path(__file__).parent.parent / "fixtures"
TINY_ENCODER = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
TINY_MBART = {
    "d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "num_hidden_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8,
}  # fmt: skip


@pytest.fixture(scope="session")
def xlmr_json() -> dict[str, Any]:
    """The tokenizer.json of XLM-R, from a package that `make` installs."""
    package = importlib.util.find_spec("semantra_multilingual")
    assert package is not None and package.origin, "run `make test`, which installs the real tokenizer"
    path = Path(package.origin).parent / "assets/multilingual-e5-small/tokenizer.json"
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def sentencepiece_model(xlmr_json) -> bytes:
    """The same as a sentencepiece.bpe.model, in which form the mBARTs are published."""
    proto = sentencepiece_model_pb2.ModelProto()
    kind = sentencepiece_model_pb2.ModelProto.SentencePiece
    for piece in ("<unk>", "<s>", "</s>"):
        proto.pieces.add(piece=piece, score=0.0, type=kind.UNKNOWN if piece == "<unk>" else kind.CONTROL)
    for piece, score in xlmr_json["model"]["vocab"][4:-1]:
        proto.pieces.add(piece=piece, score=score, type=kind.NORMAL)
    charsmap = xlmr_json["normalizer"]["normalizers"][0]["precompiled_charsmap"]
    proto.normalizer_spec.precompiled_charsmap = base64.b64decode(charsmap)
    proto.trainer_spec.model_type = sentencepiece_model_pb2.TrainerSpec.UNIGRAM
    return proto.SerializeToString()


@pytest.fixture(scope="session")
def cc25_json(xlmr_json) -> dict[str, Any]:
    """The tokenizer.json that mBART-cc25 is published with: pieces, 25 codes, <mask>."""
    pieces = xlmr_json["model"]["vocab"]
    vocab = [*pieces[:-1], *([code, 0.0] for code in FAIRSEQ_LANGUAGE_CODES[:25]), pieces[-1]]
    specials = [(i, token) for i, (token, _) in enumerate(vocab) if i < 4 or i > 250000]
    added = [
        {"id": i, "content": token, "single_word": False, "lstrip": token == "<mask>", "rstrip": False,
         "normalized": False, "special": True} for i, token in specials
    ]  # fmt: skip
    return {**xlmr_json, "model": {**xlmr_json["model"], "vocab": vocab}, "added_tokens": added, "post_processor": None}


@pytest.fixture(scope="session")
def published(tmp_path_factory, xlmr_json, cc25_json, sentencepiece_model) -> Callable[..., Path]:
    """Makes a folder like a public checkpoint: its configuration (made tiny), its tokenizer files, random weights."""
    made: dict[str, Path] = {}

    def _make(name: str, **changes: Any) -> Path:
        key = f"{name}-{len(made)}" if changes else name
        if key not in made:
            folder = made[key] = tmp_path_factory.mktemp(key)
            config = json.loads((FIXTURES / "published" / f"{name}.json").read_text())
            config |= (TINY_MBART if config["model_type"] == "mbart" else TINY_ENCODER) | changes
            (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
            if "50" in name or "cc25" in name:
                (folder / "sentencepiece.bpe.model").write_bytes(sentencepiece_model)
            if "50" not in name:
                content = cc25_json if "cc25" in name else xlmr_json
                (folder / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
            _write_weights(folder, config)
        return made[key]

    return _make


def _write_weights(folder: Path, config: dict[str, Any]) -> None:
    """Random weights under the published configuration, which saving would rewrite."""
    text = (folder / "config.json").read_text()
    torch.manual_seed(1)
    kind = AutoModelForSeq2SeqLM if config["model_type"] == "mbart" else AutoModelForMaskedLM
    kind.from_config(AutoConfig.from_pretrained(folder)).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / "config.json").write_text(text)


@pytest.fixture(scope="session")
def real_sentences() -> list[str]:
    """1,050 paragraphs in 15 languages."""
    lines = (FIXTURES / "sentences.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines]
