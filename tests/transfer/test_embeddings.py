"""The three modes on a tiny pair with a known truth: which rows are dead, and the exact map between the spaces."""

from __future__ import annotations

import copy
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForSeq2SeqLM,
    BertConfig,
    BertForMaskedLM,
    BertTokenizer,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
)

from polygraft import transfer
from polygraft.errors import TransferError
from polygraft.models.vocabulary import map_vocabularies, token_counts, tokens_by_id
from polygraft.recipe import Embeddings, TextData
from polygraft.transfer import embeddings
from polygraft.transfer.plan import Inputs, check_plan, format_plan

SHARED = "model.shared.weight"


@pytest.fixture
def pair(tiny_xlmr, tiny_mbart, xlmr_tokenizer, mbart_tokenizer, sentences):
    """A pair with s e_B = e_A W + c exactly; every third piece and all but five languages are dead in the target."""
    generator = torch.Generator().manual_seed(5)
    vocabulary = map_vocabularies(mbart_tokenizer, len(mbart_tokenizer), xlmr_tokenizer, len(xlmr_tokenizer))
    source, target = embeddings.embedding_matrix(tiny_xlmr), embeddings.embedding_matrix(tiny_mbart)
    source.copy_(torch.randn(source.shape, generator=generator))
    weight, intercept = torch.randn(32, 48, generator=generator), torch.randn(48, generator=generator)
    truth = (source @ weight + intercept) / 48**0.5
    mapped = vocabulary.source_of >= 0
    target[mapped] = truth[vocabulary.source_of[mapped]]
    codes = vocabulary.language_code
    target[codes] = 3.0 + torch.randn(len(codes), 48, generator=generator)
    dead, dead_codes = vocabulary.ordinary[::3], codes[5:]
    drift = torch.randn(48, generator=generator)
    ids = np.concatenate([dead, dead_codes])
    target[ids] = drift + 0.02 * torch.randn(len(ids), 48, generator=generator)
    target[1] = drift
    counts = token_counts(mbart_tokenizer, sentences[:6], len(target))
    tokens = tokens_by_id(mbart_tokenizer, len(target), "target")

    def inputs(mode, before=None, **settings):
        section = Embeddings(mode=mode, ridge_lambda=0.0, **settings)
        after = None if mode == "recentre" else tiny_xlmr
        known = vocabulary if after is not None else map_vocabularies(mbart_tokenizer, len(target))
        return Inputs(section, tiny_mbart, known, tokens, before, after, counts)

    return SimpleNamespace(
        inputs=inputs, source=source, target=target, truth=truth, weight=weight, dead=dead, dead_codes=dead_codes,
        vocabulary=vocabulary, counts=counts, source_model=tiny_xlmr, target_model=tiny_mbart,
    )  # fmt: skip


def carry_out(inputs):
    plan = embeddings.plan(inputs)
    check_plan(plan, inputs.target.state_dict())
    fitted = embeddings.fit(plan, inputs)
    changes = embeddings.apply(plan, fitted, inputs)
    return plan, fitted, changes, embeddings.diagnose(plan, fitted, inputs, changes)


def unchanged(before, after, changed):
    kept = np.setdiff1d(np.arange(len(before)), changed)
    return torch.equal(before[kept], after[kept])


def test_repair_recovers_the_map_and_the_rows(pair):
    before = pair.target.clone()
    plan, fitted, _, figures = carry_out(pair.inputs("repair"))
    torch.testing.assert_close(fitted.map.weight.float(), pair.weight, atol=1e-4, rtol=0)
    assert figures["heldout_r2"] > 1 - 1e-8
    assert figures["csls_precision_at_1"] == 1.0
    assert np.array_equal(plan.row_sets["dead"], pair.dead)
    # around the mean of the trained rows, at 0.8 of their median distance, and otherwise a shifted and scaled truth
    trained = before[np.setdiff1d(pair.vocabulary.ordinary, pair.dead)]
    truth = pair.truth[pair.vocabulary.source_of[pair.dead]]
    offsets = truth - truth.mean(0)
    distance = (trained - trained.mean(0)).norm(dim=1).median()
    expected = trained.mean(0) + 0.8 * offsets * distance / offsets.norm(dim=1).median()
    torch.testing.assert_close(pair.target[pair.dead], expected, atol=1e-4, rtol=0)
    assert unchanged(before, pair.target, np.concatenate([pair.dead, pair.dead_codes]))


def test_repair_follows_the_noise(pair):
    clean = pair.target.clone()
    errors = []
    for noise in (0.01, 0.1):
        pair.target.copy_(clean)
        trained = np.setdiff1d(pair.vocabulary.ordinary, pair.dead)
        generator = torch.Generator().manual_seed(9)
        pair.target[trained] += noise * torch.randn(len(trained), 48, generator=generator)
        _, fitted, _, _ = carry_out(pair.inputs("repair"))
        errors.append(float((fitted.map.weight - pair.weight).norm()))
    assert errors[1] / errors[0] == pytest.approx(10, rel=0.02)


def test_rows_that_the_source_never_learned_are_recentred(pair):
    lost = pair.vocabulary.source_of[pair.dead[:40]]
    generator = torch.Generator().manual_seed(6)
    drift = 2 * torch.randn(32, generator=generator)
    pair.source[lost] = drift + 0.02 * torch.randn(40, 32, generator=generator)
    pair.source[1] = drift
    plan = embeddings.plan(pair.inputs("repair"))
    by_transform = {entry.transform: entry.ids for entry in plan.entries}
    assert np.array_equal(by_transform["recentre"], pair.dead[:40])
    assert np.array_equal(by_transform["repair"], pair.dead[40:])
    assert not np.isin(pair.dead, plan.row_sets["fit"]).any()


@pytest.mark.parametrize("norm_scale", [1.0, 0.5])
def test_recentre_needs_no_source_and_removes_the_drift(pair, norm_scale):
    before = pair.target.clone()
    plan, fitted, changes, figures = carry_out(pair.inputs("recentre", norm_scale=norm_scale))
    assert fitted is None
    assert figures["mean_pairwise_cosine.dead_before"] > 0.99
    trained = before[np.setdiff1d(pair.vocabulary.ordinary, pair.dead)]
    after = pair.target[pair.dead]
    offsets, distances = after - trained.mean(0), (trained - trained.mean(0)).norm(dim=1)
    assert float(offsets.norm(dim=1).median()) == pytest.approx(norm_scale * float(distances.median()), rel=1e-4)
    # nothing transferred: what is left is each row's own noise, scaled
    own = before[pair.dead] - before[np.concatenate([pair.dead, pair.dead_codes])].mean(0)
    assert float(torch.cosine_similarity(offsets, own, dim=1).min()) > 0.9999
    assert unchanged(before, pair.target, changes.ids)
    assert np.array_equal(changes.ids, np.sort(np.concatenate([pair.dead, pair.dead_codes])))
    assert torch.equal(changes.before, before[changes.ids])
    assert sum(plan.rows().values()) == len(before)


def test_dead_language_codes_become_languages(pair):
    before = pair.target.clone()
    carry_out(pair.inputs("recentre"))
    known = before[np.setdiff1d(pair.vocabulary.language_code, pair.dead_codes)]
    after = pair.target[pair.dead_codes]
    spread = (known - known.mean(0)).norm(dim=1).median()
    assert float((after - known.mean(0)).norm(dim=1).median()) == pytest.approx(float(spread), rel=1e-4)
    assert len(torch.unique(after, dim=0)) == len(after)  # distinct, so that training can tell them apart


def test_codes_that_strayed_from_the_ball_are_still_unknown(pair):
    """As in nano mBART: codes named in texts as locales lie 2 to 5 radii from the drift, known languages 20 or more."""
    generator = torch.Generator().manual_seed(7)
    stray = pair.dead_codes[:3]
    pair.target[stray] += 0.1 * torch.randn(3, 48, generator=generator)
    before = pair.target.clone()
    plan, _, _, _ = carry_out(pair.inputs("recentre"))
    assert np.array_equal(plan.row_sets["dead_codes"], pair.dead_codes)
    known = before[np.setdiff1d(pair.vocabulary.language_code, pair.dead_codes)]
    distances = (pair.target[pair.dead_codes] - known.mean(0)).norm(dim=1)
    torch.testing.assert_close(distances, distances.median().expand(len(distances)), rtol=1e-4, atol=0)


def test_without_known_languages_codes_are_placed_among_tokens(pair):
    generator = torch.Generator().manual_seed(8)
    alive = np.setdiff1d(pair.vocabulary.language_code, pair.dead_codes)
    pair.target[alive] = pair.target[1] + 0.02 * torch.randn(len(alive), 48, generator=generator)
    plan = embeddings.plan(pair.inputs("recentre"))
    entry = next(entry for entry in plan.entries if entry.token_class == "language codes, recentred")
    assert entry.transform == "recentre"
    assert np.array_equal(entry.ids, pair.vocabulary.language_code)


def test_delta_from_an_unchanged_source_changes_no_bit(pair):
    before = {name: tensor.clone() for name, tensor in pair.target_model.state_dict().items()}
    carry_out(pair.inputs("delta", before=copy.deepcopy(pair.source_model)))
    assert all(torch.equal(tensor, before[name]) for name, tensor in pair.target_model.state_dict().items())


@pytest.mark.parametrize(("alpha", "k"), [(1.0, 5.0), (0.5, 0.0)])
def test_delta_moves_rows_of_the_text_by_the_mapped_change(pair, alpha, k):
    source_before, before = copy.deepcopy(pair.source_model), pair.target.clone()
    ordinary = pair.vocabulary.ordinary
    seen = ordinary[pair.counts[ordinary] > 0]
    change = torch.randn(len(seen), 32, generator=torch.Generator().manual_seed(4))
    decay = torch.full((32,), 0.3)  # what moves every row alike must not be transferred
    pair.source[pair.vocabulary.source_of[ordinary]] += decay
    pair.source[pair.vocabulary.source_of[seen]] += change
    inputs = pair.inputs("delta", before=source_before, alpha=alpha, shrinkage_count=k)
    plan, _, changes, figures = carry_out(inputs)
    count = torch.from_numpy(pair.counts[seen])[:, None]
    expected = before[seen] + alpha * count / (count + k) * (change @ pair.weight) / 48**0.5
    torch.testing.assert_close(pair.target[seen], expected.float(), atol=1e-4, rtol=0)
    assert unchanged(before, pair.target, seen)
    assert np.array_equal(changes.ids, seen)
    assert figures["text_share_changed"] == 1.0
    assert any("never learned" in warning for warning in plan.warnings)


def test_a_healthy_target_is_left_alone(pair):
    dead = np.concatenate([pair.dead, pair.dead_codes, [1]])
    pair.target[dead] = torch.randn(len(dead), 48, generator=torch.Generator().manual_seed(2))
    before = pair.target.clone()
    plan, fitted, changes, figures = carry_out(pair.inputs("repair"))
    assert fitted is None
    assert figures["dead_rows"] == figures["changed_rows"] == len(changes.ids) == 0
    assert torch.equal(before, pair.target)
    assert any("no row that was never learned" in warning for warning in plan.warnings)


def test_unscaled_embeddings(pair):
    pair.target_model.config.scale_embedding = False
    _, fitted, _, _ = carry_out(pair.inputs("repair"))
    torch.testing.assert_close(fitted.map.weight.float(), pair.weight / 48**0.5, atol=1e-4, rtol=0)


def test_diagnostics_count_scripts(pair):
    _, _, _, figures = carry_out(pair.inputs("repair"))
    scripts = {name.partition(".")[2]: n for name, n in figures.items() if name.startswith("dead_rows.")}
    assert sum(scripts.values()) == figures["dead_rows"] == len(pair.dead)
    assert scripts["LATIN"] > 10
    assert scripts["CYRILLIC"] > 10
    assert figures["dead_language_codes"] == len(pair.dead_codes)
    assert figures["text_share_dead"] == pytest.approx(pair.counts[pair.dead].sum() / pair.counts.sum())
    json.dumps(figures, allow_nan=False)


def test_rows_that_are_frequent_in_the_text_weigh_more(pair):
    generator = torch.Generator().manual_seed(9)
    trained = np.setdiff1d(pair.vocabulary.ordinary, pair.dead)
    pair.target[trained] += 0.3 * torch.randn(len(trained), 48, generator=generator)
    favoured = trained[::3]
    residuals = []
    for count in (0, 10**15):
        pair.counts[:] = 0
        pair.counts[favoured] = count
        inputs = pair.inputs("repair")
        fitted = embeddings.fit(embeddings.plan(inputs), inputs)
        mapped = fitted.map(pair.source[pair.vocabulary.source_of[favoured]]) / 48**0.5
        residuals.append(float((mapped - pair.target[favoured]).norm()))
    assert residuals[1] < 0.97 * residuals[0]


def test_too_few_common_rows_are_refused(pair):
    generator = torch.Generator().manual_seed(3)
    alive = np.setdiff1d(pair.vocabulary.ordinary, pair.dead)[40:]
    pair.target[alive] = pair.target[1] + 0.02 * torch.randn(len(alive), 48, generator=generator)
    inputs = pair.inputs("repair")
    with pytest.raises(TransferError, match="only 40 tokens have rows that both models learned"):
        embeddings.fit(embeddings.plan(inputs), inputs)


def test_untied_target_is_refused(pair):
    pair.target_model.lm_head.weight = torch.nn.Parameter(pair.target.clone())
    with pytest.raises(TransferError, match="two tensors"):
        embeddings.plan(pair.inputs("recentre"))


@pytest.fixture
def folders(pair, tmp_path, xlmr_tokenizer, mbart_tokenizer, sentences):
    for name, model, tokenizer in (
        ("source", pair.source_model, xlmr_tokenizer), ("target", pair.target_model, mbart_tokenizer),
    ):  # fmt: skip
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    (tmp_path / "text.txt").write_text("\n".join(sentences[:6]), encoding="utf-8")
    text = TextData(train_file=str(tmp_path / "text.txt"))
    return SimpleNamespace(
        source=str(tmp_path / "source"), target=str(tmp_path / "target"), text=text, out=tmp_path / "out"
    )


@pytest.mark.parametrize("mode", ["recentre", "repair", "delta"])
def test_run_writes_a_checkpoint_that_is_tied_when_reloaded(folders, pair, mode):
    source = None if mode == "recentre" else folders.source
    result = transfer.run(Embeddings(mode=mode), source, source, folders.target, folders.text, folders.out)
    model = AutoModelForSeq2SeqLM.from_pretrained(folders.out)
    one = model.model.shared.weight
    others = (model.model.encoder.embed_tokens.weight, model.model.decoder.embed_tokens.weight, model.lm_head.weight)
    assert all(other is one or other.data_ptr() == one.data_ptr() for other in others)
    plan = json.loads((folders.out / "plan.json").read_text(encoding="utf-8"))
    changed = [e for e in plan["entries"] if e["transform"] != "keep"]
    assert sum(result["rows"].values()) == len(one)
    ids = [i for e in changed for first, last in e["ids"] for i in range(first, last + 1)]
    assert unchanged(pair.target, one.detach(), ids)
    loaded = model.state_dict()
    for name, tensor in pair.target_model.state_dict().items():
        assert torch.equal(tensor, loaded[name]) or name == SHARED or name in plan["tied"]
    if mode != "delta":
        assert len(ids) == len(pair.dead) + len(pair.dead_codes)
        assert result["diagnostics"]["text_share_changed"] > 0.1
    assert json.loads((folders.out / "diagnostics.json").read_text()) == result["diagnostics"]
    assert result["plan"] == "plan.json"
    assert (result["method"], result["mode"]) == ("embeddings", mode)


def test_a_transfer_that_unties_the_target_is_refused(folders, monkeypatch):
    carry_out = embeddings.apply

    def untying(plan, fitted, inputs):
        inputs.target.lm_head.weight = torch.nn.Parameter(inputs.target.lm_head.weight.detach().clone())
        return carry_out(plan, fitted, inputs)

    monkeypatch.setattr(embeddings, "apply", untying)
    with pytest.raises(TransferError, match=r"the target ties .* after the transfer, planned were .*lm_head\.weight"):
        transfer.run(Embeddings(mode="recentre"), None, None, folders.target, None, folders.out)
    assert not folders.out.exists()


def test_dry_run_writes_nothing(folders):
    result = transfer.run(Embeddings(), None, folders.source, folders.target, None, folders.out, dry_run=True)
    assert not folders.out.exists()
    assert "text tokens, mapped" in result["plan"]
    assert "lm_head.weight" in result["plan"]


@pytest.mark.parametrize(
    ("mode", "missing"),
    [("repair", "source_after"), ("delta", "source_before and source_after and text")],
)
def test_missing_inputs_are_named(folders, mode, missing):
    with pytest.raises(TransferError, match=f"needs {missing}"):
        transfer.run(Embeddings(mode=mode), None, None, folders.target, None, folders.out)


def test_sources_of_two_shapes_are_refused(folders, tmp_path, tiny_xlmr, xlmr_tokenizer):
    tiny_xlmr.resize_token_embeddings(len(xlmr_tokenizer) + 8)
    tiny_xlmr.save_pretrained(tmp_path / "other")
    xlmr_tokenizer.save_pretrained(tmp_path / "other")
    with pytest.raises(TransferError, match="source_before and source_after are not one model"):
        transfer.run(
            Embeddings(mode="delta"), str(tmp_path / "other"), folders.source, folders.target, folders.text, folders.out
        )


def test_another_vocabulary_is_refused(folders, tmp_path):
    """mBERT's case: WordPiece, words bare and continuations marked, so that few strings are the same."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh", "the", "##ing", "package", "##ed"]
    config = BertConfig(
        vocab_size=len(words), hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    BertForMaskedLM(config).save_pretrained(tmp_path / "mbert")
    BertTokenizer(vocab={word: i for i, word in enumerate(words)}).save_pretrained(tmp_path / "mbert")
    with pytest.raises(TransferError, match=r"only \d+\.\d% of the target's tokens are in the source's vocabulary"):
        transfer.run(Embeddings(), None, str(tmp_path / "mbert"), folders.target, None, folders.out)
    assert not folders.out.exists()


def test_a_source_wider_than_its_shared_rows_is_refused(folders, tmp_path, tiny_xlmr, xlmr_tokenizer):
    config = XLMRobertaConfig(
        vocab_size=len(xlmr_tokenizer), hidden_size=512, num_hidden_layers=1, num_attention_heads=1,
        intermediate_size=8, max_position_embeddings=66, pad_token_id=1,
    )  # fmt: skip
    XLMRobertaForMaskedLM(config).save_pretrained(tmp_path / "wide")
    xlmr_tokenizer.save_pretrained(tmp_path / "wide")
    with pytest.raises(TransferError, match=r"only \d+ tokens .* the source is 512 wide and at least 512 are needed"):
        transfer.run(Embeddings(), None, str(tmp_path / "wide"), folders.target, None, folders.out)


def test_plan_of_the_pair_reads_well(pair):
    table = format_plan(embeddings.plan(pair.inputs("repair")))
    for words in ("text tokens, mapped", "language codes, recentred", "special tokens", "<pad>", "other tensors"):
        assert words in table
