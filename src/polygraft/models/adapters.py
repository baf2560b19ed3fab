"""What a stage trains: all of a model, a part, or an adapter beside it. The rest gets no gradient and no state."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from polygraft import processes
from polygraft.data.files import appearing
from polygraft.errors import CheckpointError, RecipeError
from polygraft.models import bottleneck, graft
from polygraft.settings import Bottleneck, Lora, Trainable

# All linear layers of attention and feed-forward, by the ends of their names: of the BERT family, and of mBART.
LINEAR = ["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"]
LINEAR += ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]


def prepare(
    model: PreTrainedModel, adapter: Lora | Bottleneck | None, trainable: Trainable = "all", task: str = "seq2seq"
) -> PeftModel | None:
    """Freeze what is not trained and attach the stage's adapter, in place; `finish` wants what this returns.

    `task` names a new bottleneck.

    Raises:
        RecipeError: LoRA on modules that the model does not have.
        CheckpointError: LoRA on a model that has bottleneck adapters, or the bridge of a model that has none.
    """
    if isinstance(adapter, Lora):
        return _attach_lora(model, adapter)
    if isinstance(adapter, Bottleneck):
        model.requires_grad_(False)  # earlier adapters too: they are part of what the new one learns to change
        bottleneck.attach(model, adapter, bottleneck.new_name(model, task))
    elif trainable == "bridge":
        graft.train_bridge_only(model)
    elif trainable != "all":
        embeddings = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
        embeddings.add(id(model.get_output_embeddings().weight))  # an untied one too
        for parameter in model.parameters():
            parameter.requires_grad_((id(parameter) in embeddings) == (trainable == "embeddings"))
    return None


def freeze(part: nn.Module, model: PreTrainedModel) -> None:
    """Train no weight of a part of a model, but the rows that it shares with the rest."""
    shared = {id(parameter) for parameter in model.get_input_embeddings().parameters()}
    for parameter in part.parameters():
        if id(parameter) not in shared:
            parameter.requires_grad_(False)


def _attach_lora(model: PreTrainedModel, settings: Lora) -> PeftModel:
    """Put LoRA into the model, in place: the PeftModel around it is only there to save and to merge."""
    if bottleneck.adapters(model):
        raise CheckpointError(
            "adapter.type = lora: the model has bottleneck adapters, on which LoRA cannot be merged. Use type: "
            "bottleneck, or the model that they were trained on."
        )
    inside = _layer_linears(model)
    wanted = settings.target_modules or [end for end in LINEAR if any(_ends(name, end) for name in inside)]
    unknown = [end for end in wanted if not any(_ends(name, end) for name in inside)]
    if unknown:
        known = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in inside))
        raise RecipeError(
            f"adapter.target_modules: no linear layer in {type(model).__name__}'s layers is called '{unknown[0]}'. "
            f"It has {known}."
        )
    # LoRA on a tied matrix gets no gradient, and `dense` would also mean the output head's
    outside = [n for n, m in model.named_modules() if n not in inside and any(_ends(n, end) for end in wanted)]
    config = LoraConfig(
        r=settings.r, lora_alpha=settings.lora_alpha, lora_dropout=settings.lora_dropout, target_modules=wanted,
        exclude_modules=outside or None,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT 0.21 asks transformers in an older way
        return get_peft_model(model, config)


def _layer_linears(model: nn.Module) -> set[str]:
    layers = [(name, m) for name, m in model.named_modules() if isinstance(m, GradientCheckpointingLayer)]
    return {f"{name}.{n}" for name, m in layers for n, inner in m.named_modules() if isinstance(inner, nn.Linear)}


def _ends(name: str, end: str) -> bool:
    return name == end or name.endswith(f".{end}")


def merge_lora(model: PreTrainedModel, factors: Mapping[str, tuple[Tensor, Tensor]], folder: Path) -> None:
    """Add LoRA of given factors to linear layers of a model, in place, and save it in `folder`/adapter.

    Args:
        factors: by the layer's name, A [r, in] and B [out, r], W += B A; of one rank.
    """
    rank = len(next(iter(factors.values()))[0])
    lora = _attach_lora(model, Lora(r=rank, lora_alpha=rank, target_modules=list(factors)))
    for name, (down, up) in factors.items():
        layer: Any = model.get_submodule(name)
        layer.lora_A["default"].weight.data.copy_(down)
        layer.lora_B["default"].weight.data.copy_(up)
    finish(model, lora, folder)
    model.requires_grad_(True)


def finish(model: PreTrainedModel, lora: PeftModel | None, folder: Path) -> dict[str, Any]:
    """Merge LoRA into the weights, once it is saved in `folder`/adapter; return what the stage's result says of this.

    Bottlenecks stay attached: `checkpoints.save` writes them.
    """
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    result: dict[str, Any] = {"trainable_parameters": parameters}
    if lora is not None:
        if processes.is_main():
            with appearing(folder / bottleneck.FOLDER) as hidden:
                lora.save_pretrained(str(hidden), save_embedding_layers=False)
        lora.merge_and_unload()
        result["adapter"] = "lora, merged"
    elif bottleneck.adapters(model):
        result["adapter"] = "bottleneck, not merged: only polygraft loads it with the checkpoint"
    return result
