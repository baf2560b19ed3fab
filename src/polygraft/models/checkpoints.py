"""Load and save checkpoints: bundled names, local folders, hub names. Tensors only, never remote code."""

from __future__ import annotations

import functools
import logging
import os
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import cached_file
from transformers.utils import logging as hf_logging

from polygraft import processes
from polygraft.data.files import appearing
from polygraft.data.layout import is_cc25
from polygraft.errors import CheckpointError
from polygraft.models import bottleneck, graft
from polygraft.models.families import file_of
from polygraft.models.sound import REMEDY, assert_sound, reading
from polygraft.models.tokenizers import right_tokenizer
from polygraft.nano import bundled

TARGET_TYPES = ("mbart",)
REHEARSAL = ".rehearsal"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")

logger = logging.getLogger(__name__)


def resolve(name: str) -> str:
    """Return the folder behind a bundled name or a local one; a hub name is returned unchanged.

    Raises:
        CheckpointError: a local folder that holds no checkpoint.
    """
    path = bundled(name) or Path(name)
    if not path.exists():
        if name.count("/") > 1 or name.startswith((".", "/", "~")):
            raise CheckpointError(f"{name}: no such folder. {REMEDY}")
        return name
    if not (path / "config.json").is_file():
        raise CheckpointError(f"{name}: not a checkpoint, there is no config.json in it. {REMEDY}")
    if not list(path.glob("*.safetensors")) and not any((path / file).is_file() for file in PICKLED):
        raise CheckpointError(f"{name}: there are no weights (*.safetensors, pytorch_model.bin) in it. {REMEDY}")
    return str(path)


@functools.cache
def _say_pickled(name: str) -> None:
    """Say once that a checkpoint has no safetensors."""
    logger.warning("%s: its weights are pickled (.bin); only tensors are read from them, nothing in them is run.", name)


def split_revision(name: str) -> tuple[str, str | None]:
    """Split `owner/model@revision` into the hub name and the branch, tag or commit."""
    name, _, revision = name.partition("@")
    return name, revision or None


@functools.cache
def commit_of(name: str) -> str:
    """Return the commit that a hub name (with @revision, if it is pinned) stands for, the same throughout a run.

    Raises:
        CheckpointError: it cannot be found out.
    """
    path, revision = split_revision(name)
    _load(AutoConfig, name, "configuration", revision=revision or "main")
    return Path(str(cached_file(path, "config.json", revision=revision or "main"))).parent.name  # snapshots/<commit>


def load_config(name: str) -> PreTrainedConfig:
    """Load the configuration of a checkpoint."""
    config = _load(AutoConfig, name, "configuration")
    assert_sound(config.to_dict(), None, name, "config.json")
    return config


def load_generation_config(name: str) -> GenerationConfig:
    """Load what a checkpoint says of generation; as in transformers, from its configuration where no file does."""
    try:
        return _load(GenerationConfig, name, "generation configuration")
    except CheckpointError:  # it has none
        return _load(GenerationConfig, name, "generation configuration", config_file_name="config.json")


def source_config(name: str) -> PreTrainedConfig:
    """Load the configuration of a masked language model; raise CheckpointError for another kind."""
    config = load_config(name)
    if config.is_encoder_decoder:
        raise CheckpointError(
            f"{name}: is a sequence-to-sequence model ('{config.model_type}'), but a masked language model is needed "
            "here. An mBART is adapted with objective: denoising."
        )
    return config


def target_config(name: str) -> PreTrainedConfig:
    """Load the configuration of an mBART or of a graft onto one; raise CheckpointError for another kind."""
    config = load_config(name)
    if decoder_config(config).model_type not in TARGET_TYPES:
        raise CheckpointError(f"{name}: is a '{config.model_type}' model, but the target has to be an mBART.")
    return config


def decoder_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return the configuration of a graft's decoder; that of any other model as it is."""
    return config.decoder if config.model_type == graft.MODEL_TYPE else config


def load_tokenizer(name: str) -> Any:
    """Load the tokenizer that a checkpoint was made with, silent mistakes of AutoTokenizer mended."""
    config, loaded = load_config(name), _load(AutoTokenizer, name, "tokenizer")
    with reading(name, "tokenizer"):
        return right_tokenizer(loaded, local_folder(name), decoder_config(config))


def local_folder(name: str) -> str:
    """Return the folder that a checkpoint is read from; of one from the hub its place in the cache."""
    path = resolve(name)
    if Path(path).exists():
        return path
    return str(Path(str(cached_file(split_revision(name)[0], "config.json", revision=commit_of(name)))).parent)


def load_masked_lm(name: str) -> PreTrainedModel:
    """Load a masked language model in fp32 (the source).

    An encoder that comes without a language modelling head (multilingual-e5) gets a new one, with a warning.
    """
    return load_source(name)[0]


def load_source(name: str) -> tuple[PreTrainedModel, bool]:
    """Load a masked language model as `load_masked_lm` does, and say whether its head came with it."""
    source_config(name)
    model, missing = _load_model(AutoModelForMaskedLM, name, "masked language model")
    return model, not missing


def load_seq2seq(name: str) -> PreTrainedModel:
    """Load an mBART, or a graft onto one, in fp32 (the target)."""
    target_config(name)
    model, _ = _load_model(AutoModelForSeq2SeqLM, name, "sequence-to-sequence model")
    if graft.is_graft(model):
        graft.freeze_unused(model)
    return model


def is_target(name: str) -> bool:
    """Whether a checkpoint is a sequence-to-sequence model, as targets are, and no source."""
    return bool(load_config(name).is_encoder_decoder)


def load_any(name: str) -> PreTrainedModel:
    """Load a checkpoint of either kind in fp32."""
    return load_seq2seq(name) if is_target(name) else load_masked_lm(name)


def _load_model(kind: Any, name: str, what: str, **kwargs: Any) -> tuple[PreTrainedModel, list[str]]:
    """Load a model; beside it the names of weights of its head that its files lack."""
    bars, verbosity = hf_logging.is_progress_bar_enabled(), hf_logging.get_verbosity()
    hf_logging.disable_progress_bar()
    hf_logging.set_verbosity_error()  # its table of missing weights: what matters of it is said below
    settings = {"dtype": torch.float32, "weights_only": True, "output_loading_info": True} | kwargs
    try:
        model, info = _load(kind, name, what, **settings)
    finally:
        hf_logging.set_verbosity(verbosity)
        if bars:
            hf_logging.enable_progress_bar()
    missing = sorted(info["missing_keys"])
    body = [key for key in missing if key.startswith(f"{model.base_model_prefix}.")]
    if body or (missing and kind is not AutoModelForMaskedLM):
        lost = body or missing
        raise CheckpointError(f"{name}: {len(lost)} weights of its {what} are missing in its files, such as {lost[0]}.")
    if missing:
        logger.warning("%s: comes without a language modelling head; a new one was made, still to be trained.", name)
    if getattr(model, "generation_config", None) and (note := mend_generation_config(model.generation_config, name)):
        logger.warning(note)
    if model.config.is_encoder_decoder:
        rows = decoder_config(model.config).vocab_size
        assert_sound(model.config.to_dict(), rows, name, "config.json")
        assert_sound(model.generation_config.to_dict(), rows, name, "generation_config.json")
    if not any(file_of(local_folder(name), file) for file in WEIGHTS):
        _say_pickled(name)
    bottleneck.load(model, Path(resolve(name)) / bottleneck.FOLDER)
    return model, missing


def mend_generation_config(config: GenerationConfig, name: str) -> str | None:
    """Leave out, in place, the flags for which transformers would refuse to save a checkpoint; say which, or None.

    Such as temperature without do_sample: published checkpoints have them, and nothing reads them.

    Raises:
        CheckpointError: it cannot be saved for another reason.
    """
    if _generation_problem(config) is None:
        return None
    default = GenerationConfig()
    given = {key: value for key, value in config.to_diff_dict().items() if not key.endswith(("_id", "version"))}
    for key in given:
        setattr(config, key, getattr(default, key, None))
    if problem := _generation_problem(config):
        raise CheckpointError(f"{name}: its generation_config.json is no use: {problem}. Mend or remove that file.")
    dropped = []
    for key, value in given.items():
        setattr(config, key, value)
        if _generation_problem(config):
            setattr(config, key, getattr(default, key, None))
            dropped.append(f"{key} = {value}")
    return f"{name}: its generation_config.json contradicts itself; left out, and not saved: {', '.join(dropped)}."


def generation_config_note(name: str) -> str | None:
    """Say what `mend_generation_config` will say of a checkpoint when it is loaded."""
    return mend_generation_config(load_generation_config(name), name)


def _generation_problem(config: GenerationConfig) -> str | None:
    try:
        config.validate(strict=True)
    except (ValueError, TypeError) as error:  # TypeError of a number that is text
        return str(error).strip().splitlines()[0].rstrip(".")
    return None


def _load(kind: Any, name: str, what: str, **kwargs: Any) -> Any:
    # transformers would ask the hub, in the background, to convert pickled weights
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    path = resolve(name)
    if not Path(path).exists():
        path = split_revision(name)[0]
        if "revision" not in kwargs:
            kwargs["revision"] = commit_of(name)
    with reading(name, what):
        return kind.from_pretrained(path, trust_remote_code=False, **kwargs)


def save(model: PreTrainedModel, tokenizer: Any, folder: Path, output_languages: Collection[str] | None = None) -> None:
    """Write a plain Hugging Face checkpoint, load it again, and make sure that it is the same model.

    Bottleneck adapters go into `folder`/adapter, the base without them into the checkpoint. Files appear in `folder`
    once all are whole. Of several processes that call this, the main one does it, and the others wait for it.

    Args:
        output_languages: codes of the languages that the model now writes in; if it is one, plain `generate()` begins
            with it. None leaves that as it is.

    Raises:
        CheckpointError: what was loaded again has other values or other ties.
        OSError: the folder cannot be written.
    """
    _describe(model, tokenizer, output_languages)
    processes.by_main(lambda: _write(model, tokenizer, folder))


def _describe(model: Any, tokenizer: Any, output_languages: Collection[str] | None) -> None:
    """Put into the configuration what loading and generating need to know."""
    model.config.tokenizer_class = type(tokenizer).__name__  # else cc25's class is taken for an mBART-50
    if output_languages is not None:
        codes = tokenizer.convert_tokens_to_ids(list(output_languages))
        language = codes[0] if len(codes) == 1 else None
        place = "decoder_start_token_id" if is_cc25(tokenizer) else "forced_bos_token_id"
        setattr(model.generation_config, place, language)


def _write(model: PreTrainedModel, tokenizer: Any, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with appearing(folder) as hidden:
        model.save_pretrained(hidden, state_dict=bottleneck.base_state(model))
        bottleneck.save(model, hidden / bottleneck.FOLDER)
        tokenizer.save_pretrained(hidden)
        _assert_saved(model, hidden)


def rehearse(
    model: PreTrainedModel, tokenizer: Any, folder: Path, output_languages: Collection[str] | None = None
) -> None:
    """Save a model as `save` will once it is trained, and remove it: what can only fail at the end fails now.

    A run that goes on from a checkpoint has been through this. Of several processes the main one does it.
    """
    if not processes.is_main() or any(folder.glob("checkpoints/checkpoint-*")):
        return
    _describe(model, tokenizer, output_languages)
    try:
        _write(model, tokenizer, folder / REHEARSAL)
    finally:
        shutil.rmtree(folder / REHEARSAL, ignore_errors=True)


def _assert_saved(model: PreTrainedModel, folder: Path) -> None:
    again, _ = _load_model(type(model), str(folder), "saved copy", dtype=model.dtype)
    ties, found = tied_names(model), tied_names(again)
    if ties != found:
        raise CheckpointError(f"{folder}: the saved model ties {ties}, its reloaded copy {found}.")
    loaded = again.state_dict()
    changed = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor.cpu(), loaded[name])]
    if changed:
        raise CheckpointError(f"{folder}: tensors changed by saving and reloading: {', '.join(changed)}.")


def tied_names(model: nn.Module) -> dict[str, str]:
    """Map each tensor's name to the first name of the same memory, for all names but the first."""
    first: dict[tuple[int, torch.Size], str] = {}
    tied = {}
    for name, tensor in model.state_dict().items():
        if tensor.numel():
            owner = first.setdefault((tensor.data_ptr(), tensor.shape), name)
            if owner != name:
                tied[name] = owner
    return tied


def max_positions(model: PreTrainedModel) -> int:
    """Return the longest sequence, in tokens, that the model has positions for."""
    return positions_of(model.config)


def positions_of(config: PreTrainedConfig) -> int:
    """Return the longest sequence, in tokens, of a model of that configuration (XLM-R spends its padding id + 1)."""
    offset = config.pad_token_id + 1 if "roberta" in config.model_type else 0
    return config.max_position_embeddings - offset
