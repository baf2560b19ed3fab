"""The change of states: nothing from an unchanged source, what was asked from a changed one, and all else untouched."""

from __future__ import annotations

import copy
import json
import shutil

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from polygraft.models import bottleneck, checkpoints
from polygraft.settings import TextData
from polygraft.stages import transfer
from polygraft.transfers.contract import Inputs
from polygraft.transfers.methods import DistillTransfer
from polygraft.transfers.states import calibration, distill
from polygraft.transfers.states.calibration import Site, states

BUDGET = {
    "budget": {"steps": 3}, "per_device_train_batch_size": 4, "learning_rate": 1e-3,
    "eval_steps": 100, "save_steps": 100,  # at the end only
}  # fmt: skip


@pytest.fixture
def changed(tiny_xlmr):
    """The source after an adaptation that moved its layers."""
    after = copy.deepcopy(tiny_xlmr)
    generator = torch.Generator().manual_seed(9)
    for parameter in after.base_model.encoder.parameters():
        if parameter.ndim == 2:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return after


@pytest.fixture
def dirs(tiny_xlmr, changed, tiny_mbart, xlmr_tokenizer, mbart_tokenizer, tmp_path, sentences):
    for name, model, tokenizer in (
        ("before", tiny_xlmr, xlmr_tokenizer), ("after", changed, xlmr_tokenizer),
        ("target", tiny_mbart, mbart_tokenizer),
    ):  # fmt: skip
        checkpoints.save(model, tokenizer, tmp_path / name)
    (tmp_path / "text.txt").write_text("\n".join(sentences), encoding="utf-8")
    (tmp_path / "general.txt").write_text("\n".join(sentences[:4]), encoding="utf-8")
    return tmp_path


def run(dirs, after, **settings):
    text = TextData(train_file=str(dirs / "text.txt"), lang="uk")
    paths = str(dirs / "before"), str(dirs / after), str(dirs / "target")
    return transfer.run(DistillTransfer.model_validate(BUDGET | settings), *paths, text, dirs / "out", seed=1)


def weights(folder):
    return AutoModelForSeq2SeqLM.from_pretrained(folder).state_dict()


@pytest.mark.parametrize("general", [False, True])
def test_an_unchanged_source_changes_nothing(dirs, general):
    anchor = {"general": {"train_file": str(dirs / "general.txt"), "lang": "en"}} if general else {}
    result = run(dirs, "before", rows="keep", **anchor)
    before, after = weights(dirs / "target"), weights(dirs / "out")
    assert all(torch.equal(before[name], after[name]) for name in before)  # not by a bit
    assert result["eval_loss"] == result["eval_loss_first"] == 0.0
    assert result["steps"] == 3


def test_only_the_encoders_layers_change_and_costs_are_counted(dirs):
    result = run(dirs, "after")
    before, after = weights(dirs / "target"), weights(dirs / "out")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    layers = {name for name in before if name.startswith(("model.encoder.layers.", "model.encoder.layer_norm."))}
    silent = {
        name for name in layers if name.endswith("k_proj.bias")
    }  # change no softmax: gradients of rounding errors
    assert changed - silent == layers - silent
    assert {entry["tensor"] for entry in plan_of(dirs) if entry["transform"] == "distil"} == layers
    assert result["flops"] > 0
    assert result["tokens"] > 0
    diagnostics = json.loads((dirs / "out" / "diagnostics.json").read_text())
    assert {"matched_source_layer.1", "state_map_heldout_r2.2", "layer_cka.2", "change_asked"} <= set(diagnostics)


def test_the_asked_change_is_reached(dirs):
    result = run(dirs, "after", budget={"steps": 20}, learning_rate=5e-3, per_device_train_batch_size=16)
    assert result["diagnostics"]["change_reached"] > 0.2  # of held-out documents
    assert result["eval_loss"] < 0.8 * result["eval_loss_first"]
    # measured: 0.57, and 0.43 of the loss; 0.27 and 0.73 with the other pieces that sentencepiece before 0.2.3 trains


def objective_of(tiny_xlmr, changed, tiny_mbart, xlmr_tokenizer, mbart_tokenizer, sentences, tmp_path, seed=1, **more):
    settings = DistillTransfer.model_validate(BUDGET | {"anchor_weight": 0.25, "rows": "keep"} | more)
    texts = list(sentences)
    inputs = Inputs(
        settings=settings, target=tiny_mbart, vocabulary=None, tokens=[], counts=None, source_before=tiny_xlmr,
        source_after=changed, texts=texts, languages=["uk"] * len(texts), source_tokenizer=xlmr_tokenizer,
        target_tokenizer=mbart_tokenizer, seed=seed, out_dir=tmp_path,
    )  # fmt: skip
    fitted = distill.fit(distill.plan(inputs), inputs)
    return inputs, fitted, distill.StateChange(inputs, fitted)


def test_loss_equals_its_formula(tiny_xlmr, changed, tiny_mbart, xlmr_tokenizer, mbart_tokenizer, sentences, tmp_path):
    """Document by document, without batches: sum_l |b' - b - (a' - a) P|^2 / sigma^2, 0.25 |b' - b|^2 / sigma^2."""
    given = (tiny_xlmr, changed, tiny_mbart, xlmr_tokenizer, mbart_tokenizer, sentences, tmp_path)
    inputs, fitted, objective = objective_of(*given)
    moved_model = copy.deepcopy(tiny_mbart)
    generator = torch.Generator().manual_seed(2)
    for parameter in moved_model.get_encoder().layers.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)
    documents = distill.align_all(inputs, inputs.texts, inputs.languages)[:5]
    rows = [distill.reading(document, moved=index not in (0, 3)) for index, document in enumerate(documents)]
    batch = objective.collate(rows)
    assert (len(batch["input_ids"]), len(batch["source_ids"])) == (5, 3)
    found = objective.loss(moved_model, **batch).detach()
    expected = 0.0
    with torch.no_grad():
        for one in rows:
            document = one["document"]
            target, source = torch.tensor([document.target]), torch.tensor([document.source])
            for (x, y), fit in zip(fitted.pairs, fitted.maps, strict=True):
                ones = torch.ones_like(target)
                old, new = (
                    states(model.get_encoder(), target, ones, [y])[y][0, document.target_places]
                    for model in (tiny_mbart, moved_model)
                )
                difference = (new - old).double()
                if one["moved"]:
                    a, a_after = (
                        states(model.base_model, source, torch.ones_like(source), [x])[x][0, document.source_places]
                        for model in (tiny_xlmr, changed)
                    )
                    difference -= (a_after - a).double() @ fit.map.weight
                weight = 1.0 if one["moved"] else 0.25
                expected += weight * float(difference.square().sum()) / fit.variance
    assert float(found) == pytest.approx(expected, rel=1e-5)  # measured 6e-8
    assert int((batch["labels"] != -100).sum()) == sum(len(document.source_places) for document in documents)
    only_general = objective.collate([distill.reading(documents[0], moved=False)])
    assert float(objective.loss(tiny_mbart, **only_general)) == 0.0


@torch.no_grad()
@pytest.mark.parametrize("control", ["random", "permuted"])
def test_controls_ask_for_changes_as_large_elsewhere(
    tiny_xlmr, changed, tiny_mbart, xlmr_tokenizer, mbart_tokenizer, sentences, tmp_path, control
):
    """Held against the real changes of the same tokens: the same lengths, other directions."""
    given = (tiny_xlmr, changed, tiny_mbart, xlmr_tokenizer, mbart_tokenizer, sentences, tmp_path)

    def asked(seed, **more):
        inputs, _, objective = objective_of(*given, seed=seed, **more)
        documents = distill.align_all(inputs, inputs.texts, inputs.languages)
        if more.get("control") == "permuted":
            documents = distill.wrong_tokens(documents, inputs)
        batch = objective.collate([distill.reading(document) for document in documents])
        old, new = objective.read(objective.reference, batch), objective.targets(batch)
        lengths = [len(document.source_places) for document in documents]
        return {site: (new[site] - old[site]).double() for site in new}, lengths

    (real, lengths), (placebo, _) = asked(1), asked(1, control=control)
    again, other = asked(1, control=control)[0], asked(2, control=control)[0]
    for site, wanted_ND in real.items():
        made_ND = placebo[site]
        assert torch.equal(made_ND, again[site])
        assert not torch.equal(made_ND, other[site])
        for wanted, made in zip(wanted_ND.split(lengths), made_ND.split(lengths), strict=True):
            mine, theirs = made.norm(dim=1), wanted.norm(dim=1)
            if control == "permuted":  # within the document
                mine, theirs = mine.sort().values, theirs.sort().values
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)  # of rotations in fp32
        # of what tells the tokens apart: a shuffle leaves what all tokens of a document share
        if control == "permuted":
            wanted_ND, made_ND = (
                torch.cat([one - one.mean(0) for one in rows.split(lengths)]) for rows in (wanted_ND, made_ND)
            )
        cosine = float((made_ND * wanted_ND).sum() / (made_ND.norm() * wanted_ND.norm()))
        assert abs(cosine) < 0.2  # measured at most 0.03


def test_controls_cost_the_same_and_say_what_they_are(dirs):
    costs = set()
    for control in ("none", "random", "permuted"):
        costs.add(run(dirs, "after", rows="keep", control=control, budget={"steps": 1})["flops"])
        reasons = {entry["reason"] for entry in plan_of(dirs) if entry["transform"] == "distil"}
        assert all(reason.startswith("control: ") == (control != "none") for reason in reasons)
        shutil.rmtree(dirs / "out")
    assert len(costs) == 1  # to the operation


def test_layers_of_another_depth_are_matched(
    tiny_xlmr, changed, tiny_mbart, xlmr_tokenizer, mbart_tokenizer, sentences, tmp_path, monkeypatch
):
    """Variance and map are those of the layer that phi says."""
    monkeypatch.setattr(distill, "match_layers", lambda similarity: [0, 2, 2])
    given = (tiny_xlmr, changed, tiny_mbart, xlmr_tokenizer, mbart_tokenizer, sentences, tmp_path)
    inputs, fitted, _ = objective_of(*given)
    assert fitted.pairs == [(Site("source", 2), Site("target", 1)), (Site("source", 2), Site("target", 2))]
    direct = calibration.Calibration.of(inputs, tiny_xlmr, 10**6).fit(fitted.pairs, inputs.settings.ridge_lambda)
    assert torch.equal(direct[fitted.pairs[1]].map.weight, fitted.maps[1].map.weight)
    assert fitted.flops > 0


@pytest.mark.parametrize("kind", ["lora", "bottleneck"])
def test_adapters_in_place_of_the_layers(dirs, kind):
    """LoRA is merged, bottlenecks lie beside an untouched base; neither learns anything from an unchanged source."""
    how = {"rows": "keep", "adapter": {"type": kind}, "budget": {"steps": 2}}
    run(dirs, "after", **how)
    before, after = weights(dirs / "target"), weights(dirs / "out")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    adapters = bottleneck.adapters(checkpoints.load_seq2seq(str(dirs / "out")))
    tensors = {entry["tensor"] for entry in plan_of(dirs) if entry["transform"] == "distil"}
    if kind == "lora":
        assert changed
        assert changed < tensors
        assert not adapters
    else:
        assert not changed
        assert list(adapters["distill"]) == ["model.encoder.layers.0", "model.encoder.layers.1"]
        assert all(adapter.up.weight.any() for adapter in adapters["distill"].values())
        inside = {f"{host}.bottlenecks.distill" for host in adapters["distill"]}
        assert {tensor.rsplit(".", 2)[0] for tensor in tensors} == inside
    shutil.rmtree(dirs / "out")
    run(dirs, "before", **how)
    same, silent = weights(dirs / "out"), bottleneck.adapters(checkpoints.load_seq2seq(str(dirs / "out")))
    assert all(torch.equal(before[name], same[name]) for name in before)
    assert not any(adapter.up.weight.any() for adapter in silent.get("distill", {}).values())


def plan_of(dirs):
    return json.loads((dirs / "out" / "plan.json").read_text())["entries"]
