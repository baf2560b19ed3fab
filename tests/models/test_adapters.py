"""Parameter-efficient training in every stage: what is frozen costs nothing and stays, what is saved can be used."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForMaskedLM, AutoModelForSeq2SeqLM

from polygraft.errors import CheckpointError, RecipeError
from polygraft.models import bottleneck, checkpoints
from polygraft.objectives import MLM, Denoising
from polygraft.settings import Budget, Evaluate, Finetune, Lora, PairData, TextData
from polygraft.stages import adapt, evaluate, finetune
from polygraft.training import train as training
from polygraft.training.train import StageTrainer

LINEAR = tuple(f"{end}.weight" for end in (
    "query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense",
    "q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2",
))  # fmt: skip
UNUSED = {"final_logits_bias"}  # a buffer
BUDGET = {"budget": Budget(steps=3), "per_device_train_batch_size": 2, "learning_rate": 1e-2, "warmup_steps": 0.0,
          "precision": "fp32"}  # fmt: skip
HOW = {
    "lora": {"adapter": {"type": "lora", "r": 4, "lora_dropout": 0.1}},
    "bottleneck": {"adapter": {"type": "bottleneck", "bottleneck_size": 8}},
    "no_embeddings": {"trainable": "no_embeddings"},
    "embeddings": {"trainable": "embeddings"},
}


@pytest.fixture
def text(tmp_path, sentences):
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"text": s, "summary": s[:20]}) + "\n" for s in sentences[:8]), encoding="utf-8")
    return str(path)


@pytest.fixture
def folder(request):
    return lambda stage: str(request.getfixturevalue("tiny_xlmr_dir" if stage == "mlm" else "tiny_mbart_dir"))


def run(stage, folder, text, out, **how):
    out.mkdir(exist_ok=True)
    if stage == "finetune":
        return finetune.run(Finetune(**BUDGET | how), folder, PairData(train_file=text, source_lang="en"), 1, out)
    kind = MLM if stage == "mlm" else Denoising
    return adapt.run(kind(**BUDGET | how), folder, TextData(train_file=text, lang="en"), 1, out)


def is_embedding(name):
    parts = ("word_embeddings", "position_embeddings", "token_type_embeddings", "shared", "embed_tokens",
             "embed_positions", "lm_head.weight", "decoder.weight")  # fmt: skip
    return any(part in name for part in parts)


@torch.no_grad()
def logits(model):
    ids = torch.arange(10, 30)[None]
    more = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    return model.eval()(input_ids=ids, **more).logits


def plain(path, stage):
    return (AutoModelForMaskedLM if stage == "mlm" else AutoModelForSeq2SeqLM).from_pretrained(path)


@pytest.fixture
def seen(monkeypatch):
    """Which parameters had gradients in a step, which were to be trained, which the optimizer had states of."""
    found = {}

    class Recording(StageTrainer):
        def _clip_grad_norm(self, model, *args, **kwargs):
            found["gradients"] = {n for n, p in model.named_parameters() if p.grad is not None}
            found["trained"] = {n for n, p in model.named_parameters() if p.requires_grad}
            return super()._clip_grad_norm(model, *args, **kwargs)

        def log(self, *args):
            names = {p: n for n, p in self.model.named_parameters()}
            found["states"] = {names[p] for p in self.optimizer.state} if self.optimizer else set()
            super().log(*args)

    monkeypatch.setattr(training, "StageTrainer", Recording)
    return found


@pytest.mark.parametrize(
    ("stage", "how", "trimmed"),
    [
        ("mlm", "lora", True), ("mlm", "bottleneck", False),
        ("mlm", "no_embeddings", False), ("mlm", "embeddings", True),
        ("denoising", "lora", False), ("denoising", "bottleneck", True), ("denoising", "embeddings", False),
        ("finetune", "lora", True), ("finetune", "bottleneck", True), ("finetune", "no_embeddings", True),
    ],
)  # fmt: skip
def test_only_what_is_trained_costs_and_changes(stage, how, trimmed, seen, folder, text, tmp_path):
    out, base = tmp_path / "out", folder(stage)
    result = run(stage, base, text, out, trim_vocabulary=trimmed, **HOW[how])
    trained = {
        "lora": lambda name: ".lora_" in name, "bottleneck": lambda name: ".bottlenecks." in name,
        "embeddings": is_embedding, "no_embeddings": lambda name: not is_embedding(name),
    }[how]  # fmt: skip
    assert seen["gradients"] == seen["trained"] == seen["states"] != set()
    assert all(trained(name) for name in seen["trained"])

    before, after = plain(base, stage).state_dict(), plain(out, stage).state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    if trimmed:  # what silences the tokens that were left out
        changed -= {"lm_head.bias", "lm_head.decoder.bias", "final_logits_bias"}
    expected = {
        "lora": {name for name in before if name.endswith(LINEAR)}, "bottleneck": set(),
        "embeddings": {name for name in before if is_embedding(name)},
        "no_embeddings": {n for n in before if not is_embedding(n)} - UNUSED,
    }[how]  # fmt: skip
    assert changed - UNUSED == expected
    assert (out / "adapter").exists() == (how in ("lora", "bottleneck"))
    says = {"lora": "lora, merged", "bottleneck": "bottleneck, not merged: only polygraft loads it with the checkpoint"}
    assert result.get("adapter") == says.get(how)

    coded = stage != "mlm"  # mBART: 2 + 2 layers of width 48, 6 attentions; XLM-R: 2 layers of width 32, 2 attentions
    layers, width, wide, attentions = (4, 48, 96, 6) if coded else (2, 32, 64, 2)
    if how == "bottleneck":
        assert result["trainable_parameters"] == layers * (8 * width + 8 + width * 8)
        assert not torch.equal(logits(checkpoints.load_any(str(out))), logits(plain(out, stage)))
    if how == "lora":
        expected = attentions * 4 * 4 * (width + width) + layers * 2 * 4 * (width + wide)
        assert result["trainable_parameters"] == expected


@pytest.mark.parametrize(
    ("stage", "how"), [("mlm", "lora"), ("denoising", "no_embeddings"), ("finetune", "bottleneck")]
)
def test_resumed_equals_uninterrupted(stage, how, folder, text, tmp_path, monkeypatch):
    settings = {**HOW[how], "save_steps": 1, "trim_vocabulary": True}
    whole = run(stage, folder(stage), text, tmp_path / "whole", **settings)
    real_step = StageTrainer.training_step

    def interrupted(self, *args, **kwargs):
        if self.spending.spent["steps"] == 2:
            raise KeyboardInterrupt
        return real_step(self, *args, **kwargs)

    monkeypatch.setattr(StageTrainer, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(stage, folder(stage), text, tmp_path / "cut", **settings)
    monkeypatch.setattr(StageTrainer, "training_step", real_step)
    assert training.last_checkpoint(tmp_path / "cut").name == "checkpoint-2"
    resumed = run(stage, folder(stage), text, tmp_path / "cut", **settings)
    one, other = (checkpoints.load_any(str(tmp_path / name)).state_dict() for name in ("whole", "cut"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert resumed["train_loss"] == whole["train_loss"] and resumed["eval_loss"] == whole["eval_loss"]


@pytest.mark.parametrize("stage", ["mlm", "finetune"])
def test_lora_is_merged_and_kept_as_peft_writes_it(stage, folder, text, tmp_path):
    run(stage, folder(stage), text, tmp_path / "out", **HOW["lora"])
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {
        p.name for p in (tmp_path / "out/adapter").iterdir()
    }
    by_peft = PeftModel.from_pretrained(plain(folder(stage), stage), tmp_path / "out/adapter").merge_and_unload()
    merged = logits(plain(tmp_path / "out", stage))
    assert float((logits(by_peft) - merged).abs().max()) < 1e-5  # measured: 0
    assert float((logits(plain(folder(stage), stage)) - merged).abs().max()) > 1e-3
    assert not bottleneck.adapters(checkpoints.load_any(str(tmp_path / "out")))  # merged: not to be added once more


def test_target_modules_of_ones_own(tiny_mbart_dir, text, tmp_path):
    how = {"adapter": Lora(target_modules=["q_proj", "encoder.layers.0.fc1"])}
    run("finetune", str(tiny_mbart_dir), text, tmp_path / "out", **how)
    before, after = plain(tiny_mbart_dir, "finetune").state_dict(), plain(tmp_path / "out", "finetune").state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {n for n in before if n.endswith("q_proj.weight")} | {"model.encoder.layers.0.fc1.weight"}
    # `dense` means those of the layers, not of the output head
    for wrong in ("shared", "lm_head", "query"):
        with pytest.raises(RecipeError, match=rf"is called '{wrong}'. It has k_proj|is called '{wrong}'. It has .*fc2"):
            run("finetune", str(tiny_mbart_dir), text, tmp_path / "x", adapter=Lora(target_modules=[wrong]))


def test_dense_does_not_reach_the_output_head(tiny_xlmr_dir, text, tmp_path):
    run("mlm", str(tiny_xlmr_dir), text, tmp_path / "out", adapter=Lora(target_modules=["dense"]))
    before, after = plain(tiny_xlmr_dir, "mlm").state_dict(), plain(tmp_path / "out", "mlm").state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {n for n in before if n.endswith("dense.weight") and "lm_head" not in n and "pooler" not in n}


def test_one_stage_upon_another(tiny_mbart_dir, text, tmp_path):
    """Denoising in one adapter, the task in a second one on top (MAD-X); everything later finds both."""
    run("denoising", str(tiny_mbart_dir), text, tmp_path / "a", **HOW["bottleneck"])
    first = bottleneck.adapters(checkpoints.load_seq2seq(str(tmp_path / "a")))["denoising"]
    result = run("finetune", str(tmp_path / "a"), text, tmp_path / "b", trim_vocabulary=True, **HOW["bottleneck"])
    again = checkpoints.load_seq2seq(str(tmp_path / "b"))
    found = bottleneck.adapters(again)
    assert list(found) == ["denoising", "seq2seq"]
    for host, adapter in first.items():
        assert torch.equal(adapter.up.weight, found["denoising"][host].up.weight)
    assert result["trainable_parameters"] == 4 * (2 * 8 * 48 + 8)
    base = plain(tiny_mbart_dir, "finetune").state_dict()
    assert all(torch.equal(base[n], t) for n, t in bottleneck.base_state(again).items() if n != "final_logits_bias")
    run("denoising", str(tmp_path / "a"), text, tmp_path / "c", **HOW["bottleneck"])
    assert list(bottleneck.saved_settings(tmp_path / "c/adapter")) == ["denoising", "denoising_2"]
    with pytest.raises(CheckpointError, match="LoRA cannot be merged"):
        run("finetune", str(tmp_path / "a"), text, tmp_path / "d", **HOW["lora"])
    shutil.copytree(tmp_path / "b", tmp_path / "bare", ignore=shutil.ignore_patterns("adapter"))
    decoding = Evaluate(num_beams=1, max_new_tokens=1)
    test = PairData(train_file=text, test_file=text, source_lang="en")
    scores = [evaluate.run(decoding, str(tmp_path / name), test, tmp_path / "scores") for name in ("b", "bare")]
    with_adapters, without = (s["systems"]["model"]["all"]["loss_per_token"]["score"] for s in scores)
    assert with_adapters < without - 0.001  # evaluation uses them; measured: 0.003


def test_full_training_of_a_model_with_an_adapter_trains_both(tiny_mbart_dir, text, tmp_path):
    run("denoising", str(tiny_mbart_dir), text, tmp_path / "a", **HOW["bottleneck"])
    run("finetune", str(tmp_path / "a"), text, tmp_path / "b")
    one, other = (checkpoints.load_seq2seq(str(tmp_path / name)).state_dict() for name in "ab")
    assert {name for name in one if torch.equal(one[name], other[name])} == {"final_logits_bias"}
