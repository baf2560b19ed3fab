"""What can be loaded, what is refused, and what a saved folder says of itself."""

import json
import os
import shutil
import socket
import subprocess
import sys

import pytest
import torch
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    GenerationConfig,
    T5Config,
    T5ForConditionalGeneration,
)

from polygraft.errors import CheckpointError, DataError
from polygraft.models import checkpoints

TINY_BERT = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}


def test_both_kinds_load_in_fp32_with_their_tokenizers(tiny_xlmr, tiny_mbart, tiny_xlmr_dir, tiny_mbart_dir):
    tiny_mbart.bfloat16().save_pretrained(tiny_mbart_dir)
    source = checkpoints.load_masked_lm(str(tiny_xlmr_dir))
    target = checkpoints.load_seq2seq(str(tiny_mbart_dir))
    assert {p.dtype for p in target.parameters()} == {torch.float32}
    assert torch.equal(source.get_input_embeddings().weight, tiny_xlmr.get_input_embeddings().weight)
    assert torch.equal(target.model.shared.weight, tiny_mbart.model.shared.weight.float())
    assert type(checkpoints.load_tokenizer(str(tiny_mbart_dir))).__name__ == "MBart50Tokenizer"


def test_refused_folders(tmp_path, tiny_xlmr_dir):
    with pytest.raises(CheckpointError, match="no such folder"):
        checkpoints.load_masked_lm(str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        checkpoints.load_masked_lm(str(tmp_path / "empty"))
    weights = tiny_xlmr_dir / "model.safetensors"
    weights.unlink()
    with pytest.raises(CheckpointError, match="no weights"):
        checkpoints.load_masked_lm(str(tiny_xlmr_dir))
    weights.write_bytes(b"not safetensors")
    with pytest.raises(CheckpointError, match="cannot load"):
        checkpoints.load_masked_lm(str(tiny_xlmr_dir))


def pickle_weights(model, folder, **more):
    (folder / "model.safetensors").unlink()
    torch.save({**model.state_dict(), **more}, folder / "pytorch_model.bin")


def test_pickled_weights_are_read_as_tensors_and_written_as_safetensors(tiny_mbart, tiny_mbart_dir, tmp_path, caplog):
    pickle_weights(tiny_mbart, tiny_mbart_dir)
    name = str(tiny_mbart_dir)
    for _ in range(2):
        model = checkpoints.load_seq2seq(name)
    assert all(torch.equal(tensor, tiny_mbart.state_dict()[key]) for key, tensor in model.state_dict().items())
    assert [record.message for record in caplog.records] == [
        f"{name}: its weights are pickled (.bin); only tensors are read from them, nothing in them is run."
    ]
    checkpoints.save(model, checkpoints.load_tokenizer(name), tmp_path / "saved")
    assert (tmp_path / "saved" / "model.safetensors").is_file()
    assert not list((tmp_path / "saved").glob("*.bin"))


def test_sharded_pickled_weights(tiny_xlmr, tiny_xlmr_dir):
    (tiny_xlmr_dir / "model.safetensors").unlink()
    state = {name: tensor for name, tensor in tiny_xlmr.state_dict().items() if name != "lm_head.decoder.weight"}
    files = {name: f"pytorch_model-0000{1 + i % 2}-of-00002.bin" for i, name in enumerate(state)}
    for file in set(files.values()):
        torch.save({name: state[name] for name in state if files[name] == file}, tiny_xlmr_dir / file)
    index = {"metadata": {"total_size": 1}, "weight_map": files}
    (tiny_xlmr_dir / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    again = checkpoints.load_masked_lm(str(tiny_xlmr_dir))
    assert all(torch.equal(tensor, tiny_xlmr.state_dict()[key]) for key, tensor in again.state_dict().items())


class Evil:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_more_than_tensors_is_refused_and_not_run(tiny_mbart, tiny_mbart_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickle_weights(tiny_mbart, tiny_mbart_dir, evil=Evil())
    with pytest.raises(CheckpointError, match="more than tensors"):
        checkpoints.load_seq2seq(str(tiny_mbart_dir))
    assert not (tmp_path / "executed").exists()


def test_sharded_weights(tiny_mbart, tiny_mbart_dir):
    (tiny_mbart_dir / "model.safetensors").unlink()
    tiny_mbart.save_pretrained(tiny_mbart_dir, max_shard_size="100KB")
    assert len(list(tiny_mbart_dir.glob("*.safetensors"))) > 1
    again = checkpoints.load_seq2seq(str(tiny_mbart_dir))
    assert all(torch.equal(t, tiny_mbart.state_dict()[name]) for name, t in again.state_dict().items())
    (next(tiny_mbart_dir.glob("*.safetensors"))).unlink()
    with pytest.raises(CheckpointError, match="cannot load"):
        checkpoints.load_seq2seq(str(tiny_mbart_dir))


def test_missing_weights_are_not_made_up(tiny_mbart, tiny_mbart_dir):
    config = json.loads((tiny_mbart_dir / "config.json").read_text())
    (tiny_mbart_dir / "config.json").write_text(json.dumps(config | {"decoder_layers": 3}))
    with pytest.raises(CheckpointError, match=r"26 weights .* are missing .* model\.decoder\.layers\.2"):
        checkpoints.load_seq2seq(str(tiny_mbart_dir))


def test_an_encoder_without_a_head_gets_one_with_a_warning(tmp_path, xlmr_tokenizer, caplog):
    model = BertModel(BertConfig(vocab_size=len(xlmr_tokenizer), **TINY_BERT))
    model.save_pretrained(tmp_path)
    xlmr_tokenizer.save_pretrained(tmp_path)
    loaded = checkpoints.load_masked_lm(str(tmp_path))
    assert "without a language modelling head" in caplog.text
    assert torch.equal(loaded.get_input_embeddings().weight, model.get_input_embeddings().weight)


OFFLINE = """
import socket, sys
def refuse(*args, **kwargs):
    print("network attempt", args, file=sys.stderr)
    raise OSError("no network")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from polygraft.models import checkpoints
from polygraft.errors import CheckpointError
print(checkpoints.load_masked_lm("somebody/tiny").config.vocab_size, len(checkpoints.load_tokenizer("somebody/tiny")))
try:
    checkpoints.load_masked_lm("somebody/absent")
except CheckpointError as error:
    print(error)
"""


def test_hub_names_come_from_the_cache_offline_without_a_network_attempt(tiny_xlmr_dir, xlmr_tokenizer, tmp_path):
    commit = "0123456789abcdef0123456789abcdef01234567"
    model = tmp_path / "home/hub/models--somebody--tiny"
    shutil.copytree(tiny_xlmr_dir, model / "snapshots" / commit)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(commit)
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    (model / "refs" / "v1").write_text(commit)
    (model / "refs" / "main").write_text("f" * 40)  # the hub has moved on; that commit is not in the cache
    pinned = OFFLINE.replace("somebody/tiny", "somebody/tiny@v1")
    result = subprocess.run([sys.executable, "-c", pinned], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.startswith(f"{len(xlmr_tokenizer)} {len(xlmr_tokenizer)}\n")
    (model / "refs" / "main").write_text(commit)
    result = subprocess.run(
        [sys.executable, "-c", OFFLINE], env=environment, capture_output=True, text=True, check=True
    )
    size = len(xlmr_tokenizer)
    assert result.stdout.startswith(f"{size} {size}\nsomebody/absent: cannot load")
    assert "HF_HUB_OFFLINE is set, so the hub was not asked" in result.stdout
    assert "network attempt" not in result.stderr


@pytest.mark.parametrize(
    ("given", "dropped"),
    [
        ({"temperature": 0.7, "top_p": 0.9, "do_sample": False}, {"temperature", "top_p"}),
        ({"early_stopping": True, "num_beams": 1}, {"early_stopping"}),
        ({"temperature": 0.7, "do_sample": True}, set()),
        ({"early_stopping": True, "num_beams": 5, "max_length": 200, "length_penalty": 0.9}, set()),
    ],
)
def test_generation_flags_that_contradict_each_other(tiny_mbart_dir, tmp_path, caplog, given, dropped):
    """transformers loads them and refuses to save them: after the whole training, for who finds out there."""
    path = tiny_mbart_dir / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | given))
    model, tokenizer = checkpoints.load_seq2seq(str(tiny_mbart_dir)), checkpoints.load_tokenizer(str(tiny_mbart_dir))
    checkpoints.save(model, tokenizer, tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "generation_config.json").read_text())
    assert {key for key in given if saved.get(key) == given[key]} == set(given) - dropped
    said = [record.getMessage() for record in caplog.records if "contradicts itself" in record.getMessage()]
    assert len(said) == bool(dropped)
    assert all(f"{key} = {given[key]}" in said[0] for key in dropped)


def test_a_generation_config_that_nothing_mends_is_refused(monkeypatch):
    config = GenerationConfig()

    def never(self, *args, **kwargs):  # called for new ones, too
        if self is config:
            raise ValueError("never good")

    monkeypatch.setattr(GenerationConfig, "validate", never)
    with pytest.raises(CheckpointError, match=r"its generation_config.json is no use: never good. Mend or remove"):
        checkpoints.mend_generation_config(config, "model")


def test_bundled_names_need_no_network(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: pytest.fail("network attempt"))
    assert checkpoints.load_config("polygraft/nano-mbart").vocab_size == 8054
    with pytest.raises(DataError, match="not bundled"):
        checkpoints.load_seq2seq("polygraft/nano-llama")


def test_wrong_kinds_are_refused(tmp_path, tiny_xlmr_dir, tiny_mbart_dir):
    T5ForConditionalGeneration(
        T5Config(vocab_size=50, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    ).save_pretrained(tmp_path / "t5")
    with pytest.raises(CheckpointError, match=r"'t5'.*has to be an mBART"):
        checkpoints.load_seq2seq(str(tmp_path / "t5"))
    with pytest.raises(CheckpointError, match="'xlm-roberta'"):
        checkpoints.load_seq2seq(str(tiny_xlmr_dir))
    with pytest.raises(CheckpointError, match=r"sequence-to-sequence model \('mbart'\).*denoising"):
        checkpoints.load_masked_lm(str(tiny_mbart_dir))


def test_tokenizers_that_do_not_belong_are_refused(tiny_mbart, tiny_mbart_dir, xlmr_tokenizer, mbart_tokenizer):
    config = json.loads((tiny_mbart_dir / "config.json").read_text())
    (tiny_mbart_dir / "config.json").write_text(json.dumps(config | {"vocab_size": len(mbart_tokenizer) - 1}))
    with pytest.raises(CheckpointError, match=r"tokenizer has id \d+ \('da_DK'\), but the model only \d+ rows"):
        checkpoints.load_tokenizer(str(tiny_mbart_dir))
    shutil.rmtree(tiny_mbart_dir)
    tiny_mbart.save_pretrained(tiny_mbart_dir)
    xlmr_tokenizer.save_pretrained(tiny_mbart_dir)
    with pytest.raises(CheckpointError, match="is a XLMRobertaTokenizer; an mBART needs one of"):
        checkpoints.load_tokenizer(str(tiny_mbart_dir))


def test_positions_that_a_model_has(tiny_xlmr, tiny_mbart):
    bert = BertForMaskedLM(BertConfig(vocab_size=50, max_position_embeddings=40, **TINY_BERT))
    assert [checkpoints.max_positions(m) for m in (tiny_xlmr, tiny_mbart, bert)] == [64, 64, 40]
    longest = torch.full((1, 64), 5)
    assert tiny_xlmr(input_ids=longest).logits.shape[1] == 64
    with pytest.raises((IndexError, RuntimeError)):
        tiny_xlmr(input_ids=torch.full((1, 65), 5))


def test_output_language(tiny_mbart, mbart_tokenizer, tmp_path):
    language = mbart_tokenizer.convert_tokens_to_ids("uk_UA")
    checkpoints.save(tiny_mbart, mbart_tokenizer, tmp_path, ["uk_UA"])
    again = checkpoints.load_seq2seq(str(tmp_path))
    assert again.generation_config.forced_bos_token_id == language
    out = again.generate(torch.tensor([[language, 5, 6, 2]]), max_new_tokens=4, num_beams=1)
    assert out[0, :2].tolist() == [2, language]
    checkpoints.save(again, mbart_tokenizer, tmp_path)  # not said: stays
    assert checkpoints.load_seq2seq(str(tmp_path)).generation_config.forced_bos_token_id == language
    checkpoints.save(again, mbart_tokenizer, tmp_path, ["uk_UA", "en_XX"])  # two: no default
    assert checkpoints.load_seq2seq(str(tmp_path)).generation_config.forced_bos_token_id is None


@pytest.mark.parametrize(
    ("name", "generation"),
    [
        ("mbart-large-50", {"decoder_start_token_id": 2, "forced_bos_token_id": 250048}),
        ("mbart-large-50-many-to-one-mmt", {"decoder_start_token_id": 2, "forced_bos_token_id": 250048}),
        ("mbart-large-cc25", {"decoder_start_token_id": 250020, "forced_bos_token_id": None}),
    ],
)
def test_published_configurations_are_saved_right(published, tmp_path, name, generation):
    """Their generation settings lie in config.json, many-to-one's forced English among them."""
    folder, code = str(published(name)), "ro_RO" if "cc25" in name else "uk_UA"
    model, tokenizer = checkpoints.load_seq2seq(folder), checkpoints.load_tokenizer(folder)
    checkpoints.save(model, tokenizer, tmp_path, [code])
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    found = again.generation_config
    assert {key: getattr(found, key) for key in generation} == generation
    assert (
        again.config.tokenizer_class
        == type(tokenizer).__name__
        == type(AutoTokenizer.from_pretrained(tmp_path)).__name__
    )
    batch = tokenizer("Hello", return_tensors="pt")
    outputs = again.generate(**batch, max_new_tokens=3, num_beams=1)
    first = outputs[0, 0] if "cc25" in name else outputs[0, 1]
    assert int(first) == tokenizer.convert_tokens_to_ids(code)


def test_a_copy_that_differs_is_noticed(tiny_mbart, mbart_tokenizer, tmp_path, monkeypatch):
    write = type(tiny_mbart).save_pretrained

    def spoiled(self, folder, **more):
        self.model.decoder.layers[0].fc1.bias.data += 1
        write(self, folder, **more)
        self.model.decoder.layers[0].fc1.bias.data -= 1

    monkeypatch.setattr(type(tiny_mbart), "save_pretrained", spoiled)
    with pytest.raises(CheckpointError, match=r"changed by saving and reloading: model.decoder.layers.0.fc1.bias\."):
        checkpoints.save(tiny_mbart, mbart_tokenizer, tmp_path / "changed")
    monkeypatch.setattr(type(tiny_mbart), "save_pretrained", write)
    tiny_mbart.lm_head.weight = torch.nn.Parameter(tiny_mbart.lm_head.weight.detach().clone())
    with pytest.raises(CheckpointError, match=r"saved model ties .* its reloaded copy"):
        checkpoints.save(tiny_mbart, mbart_tokenizer, tmp_path / "untied")
