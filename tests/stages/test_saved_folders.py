"""Every folder that polygraft saves gives plain transformers the logits of the model that was saved."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoConfig, AutoModelForMaskedLM, AutoModelForSeq2SeqLM, AutoTokenizer

from polygraft.models import checkpoints
from polygraft.objectives import MLM, Denoising
from polygraft.settings import Budget, Finetune, PairData, TextData, Trim
from polygraft.stages import adapt, finetune, transfer, vocabulary
from polygraft.transfers.methods import EmbeddingsTransfer

TEXT = "Бібліотека читає та записує стиснені файли."
SHORT = {"budget": Budget(steps=2), "per_device_train_batch_size": 2}


@torch.inference_mode()
def logits(model, tokenizer):
    batch = tokenizer(TEXT, return_tensors="pt")
    return model.eval()(**{key: batch[key] for key in ("input_ids", "attention_mask")}).logits


@pytest.fixture
def saved(monkeypatch):
    """The logits of each model at the moment when it is saved, by folder."""
    save, found = checkpoints.save, {}

    def remember(model, tokenizer, folder, *rest):
        attention = model.config._attn_implementation
        model.set_attn_implementation("sdpa")  # what plain loading takes; on a CPU training took another
        found[str(folder)] = logits(model, tokenizer)
        model.set_attn_implementation(attention)
        save(model, tokenizer, folder, *rest)

    monkeypatch.setattr(checkpoints, "save", remember)
    return found


@pytest.fixture
def file(tmp_path, sentences):
    path = tmp_path / "data.jsonl"
    rows = [{"text": f"{a} {b}", "summary": a} for a in sentences for b in sentences[:2]]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_all_stages(saved, file, tiny_xlmr_dir, tiny_mbart_dir, tmp_path):
    source, target = str(tiny_xlmr_dir), str(tiny_mbart_dir)
    text, pairs = TextData(train_file=file, lang="uk"), PairData(train_file=file, source_lang="uk")
    work = {
        "adapt": lambda out: adapt.run(MLM(**SHORT), source, text, 1, out),
        "adapt_trimmed": lambda out: adapt.run(MLM(**SHORT, trim_vocabulary=True), source, text, 1, out),
        "transfer": lambda out: transfer.run(EmbeddingsTransfer(mode="recentre"), None, None, target, None, out),
        "adapt_target": lambda out: adapt.run(Denoising(**SHORT), target, text, 1, out),
        "finetune": lambda out: finetune.run(Finetune(**SHORT), target, pairs, 1, out),
        "finetune_trimmed": lambda out: finetune.run(Finetune(**SHORT, trim_vocabulary=True), target, pairs, 1, out),
        "trim": lambda out: vocabulary.run_trim(Trim(train_file=[file]), target, out),
        "restore": lambda out: vocabulary.run_restore(str(tmp_path / "trim"), target, out),
        "add_languages": lambda out: vocabulary.run_add_languages({"be_BY": "uk"}, target, out),
    }
    for name, run in work.items():
        out = tmp_path / name
        out.mkdir()
        run(out)
        config = AutoConfig.from_pretrained(out)
        kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForMaskedLM
        again = logits(kind.from_pretrained(out), AutoTokenizer.from_pretrained(out))
        assert torch.equal(again, saved[str(out)]), name
    assert set(saved) == {str(tmp_path / name) for name in work}
