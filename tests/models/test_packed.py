"""The packed encoder against Hugging Face's own: states, losses and gradients, with padding and without."""

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, RobertaConfig, RobertaForMaskedLM, XLMRobertaForMaskedLM

from polygraft.data.layout import IGNORED
from polygraft.models.packed import can_pack, encode
from polygraft.objectives.labels import find_labels
from polygraft.objectives.mlm import MaskedLM

SIZES = {
    "vocab_size": 120, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 40, "pad_token_id": 1, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
KINDS = {
    "xlmr": lambda: XLMRobertaForMaskedLM(XLMRobertaForMaskedLM.config_class(**SIZES)),
    "roberta": lambda: RobertaForMaskedLM(RobertaConfig(**SIZES)),
    "bert": lambda: BertForMaskedLM(BertConfig(**SIZES)),
}


def make_batch(lengths):
    generator = torch.Generator().manual_seed(1)
    ids = torch.full((len(lengths), max(lengths)), 1)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(5, 120, (length,), generator=generator)
    chosen = (torch.rand(ids.shape, generator=generator) < 0.3) & (ids != 1)
    labels = ids.masked_fill(~chosen, IGNORED)
    mask = (ids != 1).long()
    positions = {"token_positions": mask.flatten().nonzero().squeeze(1), "label_positions": find_labels(labels)}
    return {"input_ids": ids, "attention_mask": mask, "labels": labels, **positions}


def make(kind):
    torch.manual_seed(0)
    model = KINDS[kind]()
    with torch.no_grad():
        for parameter in model.parameters():  # away from initialisation, where attention is nearly uniform
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [(9, 9, 9), (30, 4, 17, 1, 11)])
def test_loss_and_gradients_equal_hugging_faces(kind, lengths):
    model, batch = make(kind), make_batch(lengths)
    labels = (batch["labels"] != IGNORED).sum()
    expected = model(**{name: batch[name] for name in ("input_ids", "attention_mask", "labels")}).loss
    reference = torch.autograd.grad(expected, model.parameters(), allow_unused=True)
    ours = MaskedLM.loss(model, **batch) / labels
    gradients = torch.autograd.grad(ours, model.parameters(), allow_unused=True)
    assert float(ours) == pytest.approx(float(expected), abs=2e-6)
    for mine, theirs in zip(gradients, reference, strict=True):
        if theirs is not None:
            assert float((mine - theirs).abs().max()) < 2e-6  # measured: 2e-7


def test_packed_equals_unpacked_document_by_document():
    model, lengths = make("xlmr"), (30, 4, 17, 1, 11)
    batch = make_batch(lengths)
    with torch.no_grad():
        packed = encode(
            model.roberta, batch["input_ids"], batch["attention_mask"], batch["token_positions"],
            batch["token_positions"],
        )  # fmt: skip
        alone = [model.roberta(batch["input_ids"][row : row + 1, :n])[0][0] for row, n in enumerate(lengths)]
    assert float((packed - torch.cat(alone)).abs().max()) < 5e-6  # measured: 1e-6; FACTS' plain packing 0.39
    other = batch["input_ids"].clone()
    other[0] = 7  # another first document changes nothing for the rest
    with torch.no_grad():
        changed = encode(
            model.roberta, other, batch["attention_mask"], batch["token_positions"], batch["token_positions"]
        )
    assert float((changed - packed)[30:].abs().max()) == 0.0
    assert float((changed - packed)[:30].abs().max()) > 0.1


def test_hooks_on_layers_run_and_forwards_are_as_they_were():
    """Adapters and sharding hang on the layers' own calls."""
    model, batch, seen = make("xlmr"), make_batch((5, 9)), []
    for layer in model.roberta.encoder.layer:
        layer.register_forward_hook(lambda module, args, out: seen.append(tuple(out.shape)))
    MaskedLM.loss(model, **batch)
    assert seen == [(14, 24), (14, 24), (len(batch["label_positions"]), 24)]
    assert all("forward" not in layer.__dict__ for layer in model.roberta.encoder.layer)


def test_dropout_is_active_in_training_only():
    model, batch = make("xlmr"), make_batch((30, 4, 17))
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.3
    assert MaskedLM.loss(model, **batch) == MaskedLM.loss(model, **batch)
    model.train()
    assert MaskedLM.loss(model, **batch) != MaskedLM.loss(model, **batch)


def test_other_encoders_are_not_packed(tiny_mbart):
    assert not can_pack(tiny_mbart.base_model)
    assert can_pack(make("bert").base_model)
