"""The bundled pair: its layout mirrors the real one, its cards tell what was measured, and it is small."""

import json
import unicodedata
from collections import defaultdict

import pytest

from polygraft.data.reading import read_rows
from polygraft.models import checkpoints
from polygraft.nano import FOLDER, bundled

LANGUAGES = ("fr", "de", "uk", "pl", "ko")
KNOWN_TO_TARGET = {"en", "it", "da", "fr", "de", "pt", "ja"}


def test_layout_with_the_collision_of_mask_and_first_language():
    source, target = (checkpoints.load_tokenizer(f"polygraft/nano-{name}") for name in ("xlmr", "mbart"))
    shared = source.mask_token_id
    assert source.convert_ids_to_tokens(range(shared)) == target.convert_ids_to_tokens(range(shared))
    assert target.convert_ids_to_tokens(shared) == "ar_AR"
    assert target.mask_token_id == shared + 52 == target.convert_tokens_to_ids("sl_SI") + 1  # as 250053 = 250001 + 52
    assert target.convert_tokens_to_ids("da_DK") == target.mask_token_id + 1 == len(target) - 1


def test_architectures_mirror_the_real_pair():
    source = checkpoints.load_masked_lm("polygraft/nano-xlmr")
    target = checkpoints.load_seq2seq("polygraft/nano-mbart")
    assert (source.config.model_type, target.config.model_type) == ("xlm-roberta", "mbart")
    assert source.config.hidden_size != target.config.d_model
    assert target.config.scale_embedding
    assert target.config.activation_function == "relu"
    assert target.model.shared.weight.data_ptr() == target.lm_head.weight.data_ptr()


def test_sizes():
    assert sum(p.stat().st_size for p in FOLDER.glob("nano-*/*")) < 20e6
    assert sum(p.stat().st_size for p in FOLDER.glob("sample/*/*")) < 4e6


def test_cards_show_a_wide_margin_over_the_unigram_and_reliance_on_the_source():
    source = json.loads((FOLDER / "nano-xlmr" / "measured.json").read_text())
    assert {row["language"] for row in source} >= set(LANGUAGES)
    for row in source:
        assert row["MLM loss"] < row["unigram"] - 2.0, row
    target = json.loads((FOLDER / "nano-mbart" / "measured.json").read_text())
    known = [row for row in target if row["language"] in KNOWN_TO_TARGET]
    unknown = [row for row in target if row["language"] not in KNOWN_TO_TARGET]
    assert len(known) == 7
    assert len(unknown) >= 6
    for row in known:
        assert row["denoising loss"] < row["unigram, removed tokens"] - 1.0, row
        assert row["source reliance"] > 0.5, row
    worst_known = max(row["denoising loss"] for row in known)
    assert all(row["denoising loss"] > worst_known + 1.0 for row in unknown if row["language"] in {"uk", "ko", "ru"})


@pytest.mark.parametrize("language", LANGUAGES)
def test_sample_splits_share_no_family_and_no_text(language):
    families, texts = defaultdict(set), defaultdict(set)
    for split in ("adapt", "train", "validation", "test"):
        columns = ["text", "family"] + (["summary"] if split != "adapt" else [])
        rows = read_rows(f"polygraft/sample/{language}/{split}.parquet", columns)
        assert len(rows) >= 100
        families[split] = {row["family"] for row in rows}
        texts[split] = {unicodedata.normalize("NFKC", row["text"]) for row in rows}
        assert len(texts[split]) == len(rows)
    for one in families:
        for other in families:
            if one < other:
                assert not families[one] & families[other]
                assert not texts[one] & texts[other]


def test_same_family_same_split_in_every_language():
    split_of = {}
    for language in LANGUAGES:
        for split in ("adapt", "train", "validation", "test"):
            for row in read_rows(f"polygraft/sample/{language}/{split}.parquet", ["text", "family"]):
                assert split_of.setdefault(row["family"], split) == split


def test_names():
    assert bundled("facebook/mbart-large-50") is None
    assert bundled("polygraft/nano-xlmr") == FOLDER / "nano-xlmr"
