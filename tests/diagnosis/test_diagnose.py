"""`polygraft diagnose` on the nano models: what is run, measured, shared, kept and shown."""

import html
import json

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer

from polygraft import diagnosis
from polygraft.diagnosis import held_out
from polygraft.diagnosis.held_out import HeldOut, Losses
from polygraft.errors import RecipeError
from polygraft.models.checkpoints import resolve
from polygraft.recipe.placebos import placebos
from polygraft.recipe.reading import arm_recipes, parse_recipe
from polygraft.report import write
from polygraft.settings import Diagnose

ALL = Diagnose().placebos
SHORT = {"budget": {"steps": 2}, "per_device_train_batch_size": 4, "max_length_tokens": 32}


def recipe(folder, **changes):
    data = {
        "name": "trial", "output_dir": str(folder), "source": "polygraft/nano-xlmr", "target": "polygraft/nano-mbart",
        "text": {"train_file": "polygraft/sample/uk/test.parquet", "lang": "uk", "validation_split": 0.1},
        "pairs": {
            "train_file": "polygraft/sample/uk/validation.parquet", "test_file": "polygraft/sample/uk/test.parquet",
            "source_lang": "uk",
        },
        "finetune": {"budget": {"steps": 1}}, "diagnose": {"max_samples": 12, "placebos": ["recentre", "untuned"]},
        "arms": {
            "direct": {"transfer": {"mode": "recentre"}, "adapt_target": SHORT},
            "detour": {"adapt": SHORT, "transfer": {"mode": "repair"}, "adapt_target": SHORT},
        },
    }  # fmt: skip
    return parse_recipe(data | changes, "test")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("diagnose")
    return folder / "trial", diagnosis.run(recipe(folder))


def test_every_state_is_measured_once(done):
    folder, found = done
    states = [(state["arm"], state["stage"]) for state in found["states"] if state["placebo_of"] is None]
    assert states == [(arm, stage) for arm in ("direct", "detour") for stage in ("transfer", "adapt_target")]
    assert [(state["arm"], state["stage"]) for state in found["targets"]] == [("direct", "target")]
    assert found["direct"] == "direct"
    measured = list((folder / "diagnose").iterdir())
    # the target; both arms after two stages; +untuned, too; +recentre is the direct arm's
    assert len(measured) == 1 + 2 + 2 + 2


def test_placebos_share_the_adapted_source(done):
    folder, found = done
    rivals = {state["arm"] for state in found["states"] if state["placebo_of"] == "detour"}
    assert {"detour+recentre", "detour+untuned"} <= rivals
    assert not (folder / "detour+untuned" / "seed-1" / "adapt").exists()
    assert {one["name"] for one in found["arms"][0]["against"]} == rivals | {"direct"}


def test_recentring_is_the_same_in_the_direct_arm_and_as_placebo(done):
    _, found = done
    loss = {(state["arm"], state["stage"]): state["loss"]["value"] for state in found["states"]}
    for stage in ("transfer", "adapt_target"):
        assert loss["detour+recentre", stage] == loss["direct", stage]


def test_health_before_and_after(done):
    _, found = done
    shares = {(state["arm"], state["stage"]): state["dead_share"] for state in found["states"]}
    (start,) = found["targets"]
    assert start["dead_share"] > 0.3, "nano mBART has not read Ukrainian"
    assert shares["detour", "transfer"] == 0
    assert start["dead_rows"]["CYRILLIC"] > 500
    mapped = next(state for state in found["states"] if (state["arm"], state["stage"]) == ("detour", "transfer"))
    assert 0 < mapped["map_r2"] < 1


def test_losses_equal_those_of_a_document_alone(done):
    """Documents are batched with others, and read under noise of their own: a subset gives the same figures."""
    folder, _ = done
    all_of_them = HeldOut.of(recipe(folder).text, 1, 12)
    some = HeldOut(all_of_them.texts[:2], all_of_them.languages[:2])
    held_out.run("polygraft/nano-mbart", some, folder / "some")
    held_out.run("polygraft/nano-mbart", all_of_them, folder / "all")
    whole, part = Losses.load(folder / "all"), Losses.load(folder / "some")
    np.testing.assert_allclose(part.removed, whole.removed[:2], rtol=1e-4)  # measured: 1e-6
    np.testing.assert_array_equal(part.removed_tokens, whole.removed_tokens[:2])


def test_held_out_documents_are_in_no_training(done):
    folder, _ = done
    from polygraft.data.dataset import read_text, texts_of

    text = recipe(folder).text
    trained = set(texts_of(text, 1)[0])
    documents = HeldOut.of(text, 1, 12).texts
    assert len(set(documents)) == 12
    assert trained == {row[text.text_column] for row in read_text(text, 1)[0]}
    assert not trained & set(documents)


def test_again_nothing_is_run(done, monkeypatch):
    folder, found = done
    monkeypatch.setattr("polygraft.stages.transfer.run", lambda *a, **k: pytest.fail("ran again"))
    monkeypatch.setattr("polygraft.diagnosis.held_out.run", lambda *a, **k: pytest.fail("measured again"))
    again = diagnosis.run(recipe(folder.parent))
    assert again["states"] == found["states"]


def test_layers_are_compared(done):
    _, found = done
    similarity = np.array(found["layers"]["similarity"])
    source, target = (AutoConfig.from_pretrained(resolve(f"polygraft/nano-{name}")) for name in ("xlmr", "mbart"))
    assert similarity.shape == (source.num_hidden_layers + 1, target.encoder_layers + 1)
    assert found["layers"]["matched"][0] == 0
    assert sorted(found["layers"]["matched"]) == found["layers"]["matched"]


@torch.no_grad()
def test_direction_by_hand(done):
    """Cosine of what the transfer and what direct adaptation change in the encoder's last states."""
    folder, found = done
    tokenizer = AutoTokenizer.from_pretrained(resolve("polygraft/nano-mbart"), src_lang="uk_UA")
    ends = [resolve("polygraft/nano-mbart"), folder / "detour/seed-1/transfer", folder / "direct/seed-1/adapt_target"]
    encoders = [AutoModelForSeq2SeqLM.from_pretrained(end, dtype=torch.float32).get_encoder().eval() for end in ends]
    states, count = [], 0
    for text in HeldOut.of(recipe(folder).text, 1, 12).texts:
        code, *content, end = tokenizer(text).input_ids
        for part in np.array_split(content, -(-len(content) // 254)):  # as long as the model reads
            if count < 1024:
                ids = torch.tensor([[code, *part, end]])
                states.append([encoder(ids).last_hidden_state[0] for encoder in encoders])
                count += ids.shape[1]
    before, one, two = (torch.cat(column) for column in zip(*states, strict=True))
    expected = torch.cosine_similarity((one - before).flatten(), (two - before).flatten(), dim=0)
    (detour,) = found["arms"]
    assert detour["direction"] == pytest.approx(float(expected), abs=1e-5)
    assert 0.05 < detour["direction"] < 0.95, "both mend the rows that were never learned, each in its way"
    assert held_out.direction(folder, folder, folder) is None, "nothing is known of a folder that was not measured"


def test_report_shows_it_and_does_not_take_placebos_for_arms(done):
    folder, found = done
    (folder / "recipe.yaml").write_text(json.dumps(recipe(folder).model_dump(mode="json", exclude_none=True)))
    page = write(folder).read_text()
    assert "Before fine-tuning" in page
    assert "Arm detour+untuned" not in page, "a placebo is not an arm that is incomplete"
    assert found["arms"][0]["sentence"] in html.unescape(page)
    assert f"has a cosine of {found['arms'][0]['direction']:.2f}" in page
    assert 'aria-label="Layers of target' in page


@pytest.mark.parametrize(
    ("arm", "expected"),
    [
        ({"transfer": None}, []),
        ({"transfer": {"mode": "recentre"}}, []),
        ({"transfer": {"mode": "delta"}, "adapt": SHORT}, ["recentre", "random", "permuted"]),
        ({"transfer": {"mode": "repair", "control": "permuted"}}, []),
        ({"transfer": {"method": "none"}}, []),
        ({"transfer": {"method": "encoder", "control": "random"}}, []),
        ({"transfer": {"method": "encoder"}}, ["recentre", "random", "permuted"]),
        ({"transfer": {"method": "encoder"}, "adapt": SHORT}, ["recentre", "random", "permuted", "untuned"]),
    ],
)
def test_placebos_that_make_sense(tmp_path, arm, expected):
    base = recipe(tmp_path, arms={"one": arm | {"adapt_target": SHORT}})
    found = dict(placebos(arm_recipes(base)["one"], ALL))
    assert list(found) == expected
    for name, placebo in found.items():
        assert placebo.adapt_target == arm_recipes(base)["one"].adapt_target
        assert name != "untuned" or placebo.adapt is None
        type(placebo.transfer).model_validate(placebo.transfer.model_dump())  # settings that a user could write


def test_a_recipe_with_nothing_to_diagnose(tmp_path):
    arms = {"direct": {"transfer": {"mode": "recentre"}, "adapt_target": SHORT}}
    with pytest.raises(RecipeError, match="an arm with a `transfer`"):
        diagnosis.run(recipe(tmp_path, arms=arms))


def test_arms_that_hold_out_other_documents_are_refused(tmp_path):
    files = [f"polygraft/sample/uk/{split}.parquet" for split in ("validation", "test")]
    other = {"transfer": {"mode": "repair"}, "adapt_target": SHORT, "text": {"train_file": files[0]}}
    arms = {"direct": {"transfer": {"mode": "recentre"}, "adapt_target": SHORT}, "other": other}
    with pytest.raises(RecipeError, match=r"arms.other.text holds out other documents than arm 'direct'"):
        diagnosis.run(recipe(tmp_path, arms=arms))
    text = {"train_file": files[1], "validation_file": files[1], "lang": "uk"}
    found = diagnosis._held_out(arm_recipes(recipe(tmp_path, arms=arms, text=text)), 1, 12)[1]
    assert len(found.texts) == 12, "with one validation_file other training text is no matter"
