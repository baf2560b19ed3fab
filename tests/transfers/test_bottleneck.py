"""The method on real models: an exact image all the way through the encoder, and what changes and what does not."""

from __future__ import annotations

import copy
import itertools
import json

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch.nn.functional import layer_norm
from transformers import AutoModelForSeq2SeqLM, XLMRobertaForMaskedLM

from polygraft.cli.plan import text as plan_text
from polygraft.errors import TransferError
from polygraft.models import bottleneck, checkpoints
from polygraft.models.vocabulary import map_vocabularies, token_counts, tokens_by_id
from polygraft.objectives import MLM
from polygraft.report.transfer_view import explain
from polygraft.settings import Bottleneck, Budget, Finetune, PairData, TextData
from polygraft.stages import adapt, finetune, transfer
from polygraft.transfers.contract import Inputs
from polygraft.transfers.methods import BottleneckTransfer, EmbeddingsTransfer
from polygraft.transfers.plan import check_plan
from polygraft.transfers.states import bottleneck as method
from polygraft.transfers.states.calibration import Calibration, Site


@pytest.fixture
def make_inputs(tiny_mbart, xlmr_tokenizer, mbart_tokenizer, sentences, tmp_path):
    def _make(before, after, adapter=None, seed=0, **settings):
        vocabulary = map_vocabularies(mbart_tokenizer, len(mbart_tokenizer), xlmr_tokenizer, before.config.vocab_size)
        how = BottleneckTransfer(**{"rows": "keep", "ridge_lambda": 0.0} | settings)
        counts = token_counts(mbart_tokenizer, sentences, len(mbart_tokenizer))
        return Inputs(
            settings=how, target=tiny_mbart, vocabulary=vocabulary, counts=counts, source_before=before,
            tokens=tokens_by_id(mbart_tokenizer, len(mbart_tokenizer), "target"), source_after=after, texts=sentences,
            languages=["uk"] * len(sentences), source_tokenizer=xlmr_tokenizer, target_tokenizer=mbart_tokenizer,
            seed=seed, adapter=adapter, out_dir=tmp_path,
        )  # fmt: skip

    return _make


def carry_out(inputs):
    plan = method.plan(inputs)
    check_plan(plan, plan.tensors)
    fitted = method.fit(plan, inputs)
    changes = method.apply(plan, fitted, inputs)
    assert changes.model.state_dict().keys() == plan.tensors.keys()
    return plan, method.diagnose(plan, fitted, inputs, changes)


def with_adapter(model, scale, name="mlm", **settings):
    """A copy of the model with a bottleneck in every layer; scale 0: as it is before training."""
    model = copy.deepcopy(model)
    bottleneck.attach(model, Bottleneck(bottleneck_size=5, **settings), name)
    generator = torch.Generator().manual_seed(11)
    for adapter in bottleneck.adapters(model)[name].values():
        adapter.down.weight.data.normal_(std=0.3, generator=generator)
        adapter.down.bias.data.normal_(std=0.3, generator=generator)
        adapter.up.weight.data.normal_(std=scale, generator=generator)
    return model


@torch.no_grad()
def make_image(source, target, vocabulary):
    """Have the layers of both only normalize, and the target's embeddings be an isometric image of the source's."""
    generator = torch.Generator().manual_seed(3)
    bases = []
    for width in (32, 48):
        square = torch.randn(width, width, generator=generator, dtype=torch.float64)
        square[:, 0] = 1.0
        bases.append(torch.linalg.qr(square).Q[:, 1:32])
    image = (bases[0] @ bases[1].T) * 1.5**0.5
    rows = source.get_input_embeddings().weight
    rows.normal_(generator=generator)
    silent = ["attention.output.dense", "output.dense", "out_proj", "fc2", "position_embeddings",
              "token_type_embeddings", "embed_positions"]  # fmt: skip
    for model in (source, target):
        for name, parameter in model.base_model.named_parameters():
            if any(f"{part}." in name for part in silent):
                parameter.zero_()
    mapped = vocabulary.source_of >= 0
    states = layer_norm(rows.double(), (32,)) @ image
    target.get_input_embeddings().weight[mapped] = states[vocabulary.source_of[mapped]].float()
    target.get_encoder().layernorm_embedding.weight.fill_(7.0)
    for layer in target.get_encoder().layers:
        layer.self_attn_layer_norm.weight.uniform_(0.5, 2.0, generator=generator)
        layer.self_attn_layer_norm.bias.normal_(generator=generator)
    return image


@torch.no_grad()
def test_an_exact_image_changes_as_the_source_does_to_the_end(tiny_xlmr, tiny_mbart, make_inputs, monkeypatch):
    """Two adapted layers, one upon the other, through real encoders; the states at the end are again an image."""
    monkeypatch.setattr(method, "match_layers", lambda similarity: [0, 1, 2])  # idle layers are all alike
    image = make_image(tiny_xlmr, tiny_mbart, make_inputs(tiny_xlmr, tiny_xlmr).vocabulary)
    inputs = make_inputs(tiny_xlmr, with_adapter(tiny_xlmr, 0.15))
    _, figures = carry_out(inputs)
    calibration = Calibration.of(inputs, inputs.source_after, 10**6)
    a, b = Site("source", 2), Site("target", 2)
    for at in calibration.stream(calibration.documents, [a, b, Site("source", 0)]):
        expected = layer_norm(at[a].double() @ image, (48,))
        start = layer_norm(at[Site("source", 0)].double() @ image, (48,))
        assert float((at[b] - expected).norm() / (expected - start).norm()) < 1e-4  # measured: 7e-6
        assert float((expected - start).norm() / start.norm()) > 0.3
    assert figures["end_cosine"] > 0.95  # not 1: the source's last states, adapted, are not normalized
    assert 0.8 < figures["end_ratio"] < 1.2


@pytest.mark.parametrize("kind", ["bottleneck", "lora"])
def test_an_unchanged_source_changes_nothing(kind, tiny_xlmr, tiny_mbart, make_inputs, tmp_path):
    before = {name: tensor.clone() for name, tensor in tiny_mbart.state_dict().items()}
    ids = torch.arange(10, 30)[None]
    states = tiny_mbart.get_encoder()(ids).last_hidden_state
    if kind == "lora":
        after, folder = lora(tiny_xlmr, tmp_path, 0.0)
    else:
        after, folder = with_adapter(tiny_xlmr, 0.0), None
    _, figures = carry_out(make_inputs(tiny_xlmr, after, folder, ridge_lambda=1e-3))
    assert torch.equal(tiny_mbart.get_encoder()(ids).last_hidden_state, states)
    assert all(torch.equal(tiny_mbart.state_dict()[name], tensor) for name, tensor in before.items())
    assert figures["end_wanted"] == 0.0 and "end_cosine" not in figures


def lora(model, folder, scale):
    """The model with LoRA merged, and the folder in which PEFT saved it; the model given stays as it is."""
    tuned = copy.deepcopy(model)
    peft = get_peft_model(tuned, LoraConfig(r=3, lora_alpha=6, target_modules=["query", "value", "output.dense"]))
    generator = torch.Generator().manual_seed(2)
    for name, parameter in peft.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=scale, generator=generator)
    peft.save_pretrained(folder / "adapter")
    return peft.merge_and_unload(), folder / "adapter"


@pytest.mark.parametrize("kind", ["bottleneck", "lora"])
def test_only_what_is_planned_changes(kind, tiny_xlmr, tiny_mbart, make_inputs, tmp_path):
    before = {name: tensor.clone() for name, tensor in tiny_mbart.state_dict().items()}
    if kind == "lora":
        after, folder = lora(tiny_xlmr, tmp_path, 0.5)
    else:
        after, folder = with_adapter(tiny_xlmr, 0.5), None
    plain = copy.deepcopy(tiny_xlmr)
    plan, figures = carry_out(make_inputs(tiny_xlmr, after, folder, ridge_lambda=1e-3))
    carried = {entry.tensor for entry in plan.entries if entry.transform is method.CarryTransform.CARRY}
    now = tiny_mbart.state_dict()
    assert {name for name in now if name not in before or not torch.equal(now[name], before[name])} == carried
    assert all(name.startswith("model.encoder.layers.") for name in carried)
    if kind == "lora":
        assert {name.split(".", 4)[4] for name in carried} == {"fc2.weight"}
        for name in carried:
            change = (now[name] - before[name]).double()
            assert torch.linalg.matrix_rank(change, rtol=1e-4) == 3  # as in the source
        assert set(after.state_dict()) == set(plain.state_dict())
    assert all(torch.equal(tiny_xlmr.state_dict()[name], tensor) for name, tensor in plain.state_dict().items())
    assert all(np.isfinite(value) for value in figures.values())
    assert figures["end_wanted"] > 0.1 and -1 <= figures["end_cosine"] <= 1


@pytest.mark.parametrize("kind", ["bottleneck", "lora"])
def test_controls_cost_the_same_and_say_what_they_are(kind, tiny_xlmr, tiny_mbart, make_inputs, tmp_path, caplog):
    after, folder = lora(tiny_xlmr, tmp_path, 0.5) if kind == "lora" else (with_adapter(tiny_xlmr, 0.5), None)
    costs, values = set(), {}
    for control, seed in (("none", 0), ("random", 0), ("random", 1), ("permuted", 0)):
        inputs = make_inputs(tiny_xlmr, after, folder, ridge_lambda=0.1, control=control, seed=seed)
        assert inputs.settings.draws == (control != "none")
        plan = method.plan(inputs)
        fitted = method.fit(plan, inputs)
        costs.add(fitted.flops)
        carried = [adapter.up.weight for layers in fitted.adapters.values() for adapter in layers.values()]
        low_rank = [up @ down for down, up in fitted.lora.values()]
        values[control, seed] = torch.cat([value.flatten() for value in [*carried, *low_rank]])
        said = {(entry.origin, entry.transform, entry.reason) for entry in plan.entries if "source" in entry.reason}
        assert all(reason.startswith("control: ") == (control != "none") for _, _, reason in said)
        assert all(("noise" in origin) == (control == "random") for origin, _, _ in said)
        assert said
    assert len(costs) == 1  # to the operation
    assert costs.pop() > 0
    for one, other in itertools.combinations(values, 2):
        alike = abs(float(torch.nn.functional.cosine_similarity(values[one].detach(), values[other].detach(), dim=0)))
        # what is changed of all tokens alike stays where tokens are permuted; else measured at most 0.08
        assert alike < (0.8 if {one[0], other[0]} == {"none", "permuted"} else 0.3)
    assert "noise to this target" not in caplog.text


def test_dry_run_says_where_each_tensor_comes_from(tiny_xlmr, make_inputs, monkeypatch):
    monkeypatch.setattr(method, "match_layers", lambda similarity: [0, 0, 2])
    shown = plan_text(method.plan(make_inputs(tiny_xlmr, with_adapter(tiny_xlmr, 0.5))).to_json())
    line = next(line for line in shown.splitlines() if method.CarryTransform.CARRY in line)
    assert line.split()[:3] == ["3", "other", "tensors"] and "source layer 1 + 2" in line


@pytest.fixture
def text(tmp_path, sentences):
    path = tmp_path / "text.jsonl"
    rows = [{"text": f"{a} {b}", "summary": a} for a in sentences for b in sentences[:2]]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def states(folder):
    """The encoder's last states, by what polygraft loads and by what plain transformers loads."""
    ids = torch.arange(10, 30)[None]
    models = checkpoints.load_seq2seq(str(folder)), AutoModelForSeq2SeqLM.from_pretrained(folder)
    return [model.eval().get_encoder()(ids).last_hidden_state for model in models]


@torch.no_grad()
@pytest.mark.parametrize("kind", ["bottleneck", "lora"])
def test_adapt_transfer_and_finetune(kind, tiny_xlmr_dir, tiny_mbart_dir, text, tmp_path):
    source, target, budget = str(tiny_xlmr_dir), str(tiny_mbart_dir), {"budget": Budget(steps=2), "learning_rate": 1e-2}
    monolingual, out = (
        TextData(train_file=text, lang="uk"),
        {n: tmp_path / n for n in ("adapt", "transfer", "finetune")},
    )
    for folder in out.values():
        folder.mkdir()
    with torch.enable_grad():
        adapt.run(MLM(**budget, adapter={"type": kind}), source, monolingual, 1, out["adapt"])
    settings = BottleneckTransfer(rows="keep")
    result = transfer.run(settings, source, str(out["adapt"]), target, monolingual, out["transfer"])
    assert result["method"] == "bottleneck" and result["flops"] > 0
    assert result["diagnostics"]["end_wanted"] > 0.01
    assert {explain("bottleneck", name) for name in result["diagnostics"]}.isdisjoint({explain("bottleneck", "")})
    ours, plain = states(out["transfer"])
    base = states(tiny_mbart_dir)[1]
    assert not torch.equal(ours, base)
    assert torch.equal(plain, base if kind == "bottleneck" else ours)
    with torch.enable_grad():
        pairs = PairData(train_file=text, source_lang="uk")
        finetune.run(Finetune(**budget), str(out["transfer"]), pairs, 1, out["finetune"])
    names = ["mlm"] if kind == "bottleneck" else []
    assert list(bottleneck.adapters(checkpoints.load_seq2seq(str(out["finetune"])))) == names


def test_rows_are_those_of_embeddings_and_repaired_before_states_are_read(folders, pair, tmp_path, xlmr_tokenizer):
    checkpoints.save(with_adapter(pair.source_model, 0.5), xlmr_tokenizer, tmp_path / "adapted")
    adapted, read = str(tmp_path / "adapted"), []
    transfer.run(EmbeddingsTransfer(), None, folders.source, folders.target, folders.text, tmp_path / "rows")
    expected = checkpoints.load_seq2seq(str(tmp_path / "rows")).get_input_embeddings().weight
    cka = Calibration.cka

    def watched(self):
        read.append(self.target.embed_tokens.weight.clone())
        return cka(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Calibration, "cka", watched)
        transfer.run(BottleneckTransfer(), folders.source, adapted, folders.target, folders.text, folders.out)
    assert torch.equal(read[0], expected)
    assert torch.equal(checkpoints.load_seq2seq(str(folders.out)).get_input_embeddings().weight, expected)


def read_by(model, ids, module):
    """What a module of an encoder reads first and puts out for one document, by a hook of its own, as arrays."""
    seen = {}
    hook = model.get_submodule(module).register_forward_hook(lambda _, given, out: seen.update(given=given[0], out=out))
    model(input_ids=torch.tensor([ids]))
    hook.remove()
    return {key: value[0].detach().double().numpy() for key, value in seen.items()}


@torch.no_grad()
def test_lora_by_hand(tiny_xlmr, tiny_mbart, make_inputs, tmp_path, monkeypatch):
    """The whole method against the formulas: regressions in memory, of states taken document by document."""
    monkeypatch.setattr(method, "match_layers", lambda similarity: [0, 1, 2])
    after, folder = lora(tiny_xlmr, tmp_path, 0.5)
    inputs = make_inputs(tiny_xlmr, after, folder, ridge_lambda=0.3)
    encoder, old, new = tiny_mbart.get_encoder(), tiny_xlmr.roberta, after.roberta
    state, change, read, residual = [], [], [], []
    for document in Calibration.of(inputs, tiny_xlmr, 10**6).documents:
        layer = read_by(old, document.source, "encoder.layer.1")
        changed = new.encoder.layer[1](torch.tensor(layer["given"])[None].float())
        changed = (changed[0] if isinstance(changed, tuple) else changed).reshape(layer["out"].shape)
        state.append(layer["out"][document.source_places])
        change.append(changed.double().numpy()[document.source_places] - state[-1])
        read.append(read_by(encoder, document.target, "layers.1.fc2")["given"][document.target_places])
        residual.append(read_by(encoder, document.target, "layers.1")["out"][document.target_places])
    a, delta, h, z = (np.concatenate(column) for column in (state, change, read, residual))
    scale = z.std(1, keepdims=True)
    normed = layer_norm(torch.tensor(z), (48,)).numpy()

    def ridge(x, y):
        penalty = np.sqrt(0.3 * (x**2).sum() / x.shape[1]) * np.eye(x.shape[1])
        return np.linalg.lstsq(np.vstack([x, penalty]), np.vstack([y, np.zeros((x.shape[1], y.shape[1]))]), None)[0]

    wanted = delta @ ridge(a - a.mean(0), normed - normed.mean(0))
    whole = ridge(h / scale, wanted)
    _, vectors = np.linalg.eigh(whole.T @ (h / scale).T @ wanted)
    best = vectors[:, -3:] @ vectors[:, -3:].T @ whole.T
    before = encoder.layers[1].fc2.weight.clone()
    carry_out(inputs)
    made = (encoder.layers[1].fc2.weight - before).double().numpy()
    assert np.abs(made - best).max() < 1e-4 * np.abs(best).max()
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    down, up = (saved[f"base_model.model.model.encoder.layers.1.fc2.lora_{part}.weight"].double() for part in "AB")
    assert np.abs((up @ down).numpy() - made).max() < 1e-6


def test_the_targets_own_adapters_stay(tiny_xlmr, tiny_mbart, make_inputs):
    bottleneck.attach(tiny_mbart, Bottleneck(bottleneck_size=2), "mlm")
    carry_out(make_inputs(tiny_xlmr, with_adapter(tiny_xlmr, 0.5), ridge_lambda=1e-3))
    assert list(bottleneck.adapters(tiny_mbart)) == ["mlm", "mlm_2"]


def test_what_cannot_be_carried_is_refused(tiny_xlmr, tiny_mbart, make_inputs, tmp_path):
    plain, folder = copy.deepcopy(tiny_xlmr), tmp_path / "adapter"
    with pytest.raises(TransferError, match=r"no adapter/ folder. Adapt it with"):
        method.plan(make_inputs(tiny_xlmr, plain, folder))
    after, folder = lora(tiny_xlmr, tmp_path, 0.5)
    other = copy.deepcopy(tiny_xlmr)
    other.roberta.encoder.layer[1].output.dense.bias.data.add_(1.0)
    other.roberta.encoder.layer[0].intermediate.dense.bias.data.add_(1.0)
    with pytest.raises(TransferError, match=r"does not give source_after: roberta.encoder.layer.0.intermediate"):
        method.plan(make_inputs(other, after, folder))
    with pytest.raises(TransferError, match=r"does not give source_after: the two are equal"):
        method.plan(make_inputs(after, after, folder))
    bottleneck.attach(tiny_mbart, Bottleneck(bottleneck_size=2), "mlm")
    with pytest.raises(TransferError, match="the target has bottleneck adapters"):
        method.plan(make_inputs(tiny_xlmr, after, folder))
    with pytest.raises(TransferError, match="reads normalized states"):
        method.plan(make_inputs(tiny_xlmr, with_adapter(tiny_xlmr, 0.5, normalize=True)))
    peft = get_peft_model(copy.deepcopy(tiny_xlmr), LoraConfig(r=2, target_modules=["lm_head.dense"]))
    peft.save_pretrained(tmp_path / "head")
    with pytest.raises(TransferError, match=r"LoRA on lm_head.dense"):
        method.plan(make_inputs(tiny_xlmr, plain, tmp_path / "head"))
    deeper = copy.deepcopy(tiny_xlmr.config)
    deeper.num_hidden_layers = 3
    wide = XLMRobertaForMaskedLM(deeper)
    bottleneck.attach(wide, Bottleneck(), "mlm", {"roberta.encoder.layer.1.output": 4})
    with pytest.raises(TransferError, match="is in 1 of 3 layers"):
        method.plan(make_inputs(tiny_xlmr, wide))
