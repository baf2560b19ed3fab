"""What goes wrong on the way to a hub, and models that are none: what is tried again, said, not sent."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

from polygraft.errors import CheckpointError, DataError, PolygraftError, RecipeError
from polygraft.publishing.push import WAITS, push

REPO = "me/uk"
FILES = 6  # of a model and its card

BUSY = {
    "another is creating it": ("POST /api/repos/create", [500, 503]),
    "the list": ("POST .*/preupload", [503]),
    "the weights": ("PUT /lfs", [500, None]),
    "another commit came between": ("POST .*/commit", [412, 409]),
    "the commit": ("POST .*/commit", [500, 503, 502]),
    "the line": ("POST .*/commit", [None]),
    "the card's check": ("POST /api/validate-yaml", [503, 502]),
}


@pytest.mark.parametrize("what", BUSY)
def test_a_busy_hub_is_asked_again(hub, model, unloaded, what):
    place, answers = BUSY[what]
    hub.faults = {place: list(answers)}
    push(model, REPO)
    assert len(hub.files) == FILES
    assert hub.waited and len(hub.asked(place)) > len(answers)


def test_a_commit_whose_answer_was_lost_is_not_made_twice(hub, model, unloaded):
    def lose(revision: str) -> None:
        hub.after = None
        raise ConnectionAbortedError

    hub.after = lose
    push(model, REPO)
    assert len(hub.asked("POST .*/commit")) == 1 and len(hub.files) == FILES


def test_a_hub_that_stays_busy_is_given_up_with_a_remedy(hub, model, unloaded):
    hub.faults = {"POST .*/commit": [503] * 99}
    with pytest.raises(PolygraftError, match=r"the hub answered 503: fault 503\. Run the same command again"):
        push(model, REPO)
    assert [wait for wait in hub.waited if wait in WAITS][-len(WAITS) :] == list(WAITS)
    assert not hub.files and hub.blobs
    hub.faults, sent = {}, len(hub.asked("PUT"))
    push(model, REPO)  # run again
    assert len(hub.files) == FILES and len(hub.asked("PUT")) == sent


REFUSED = {
    401: r"does not know this token \(401\)\. Log in with `hf auth login`, or set HF_TOKEN",
    403: r"the token may not write there \(403: fault 403\)\. Name a repository of your own",
    404: r"branch 'v1' of .*/me/uk is not there, or not for this token \(404\)",
}


@pytest.mark.parametrize("status", REFUSED)
def test_a_refusal_says_what_to_do(hub, model, unloaded, invoke, status):
    hub.faults = {"POST .*/preupload": [status]}
    result = invoke("push", str(model), "--repo-id", REPO, "--revision", "v1")
    assert result.exit_code == 1 and re.search(REFUSED[status], result.stderr), result.stderr
    assert not hub.files and not hub.waited


def test_a_card_that_the_hub_does_not_take(hub, model, unloaded):
    hub.faults = {"POST /api/validate-yaml": [400]}
    with pytest.raises(PolygraftError, match=r"the hub does not take it: Invalid metadata in README.md. - fault 400"):
        push(model, REPO)


def test_a_token_is_not_taken_from_the_command_line_and_never_shown(hub, model, unloaded, invoke, caplog, capfd):
    result = invoke("push", str(model), "--repo-id", REPO, "--token", "hf_secret")
    assert (
        result.exit_code == 2 and "stays in the shell's history" in result.stderr and "hf_secret" not in result.stderr
    )
    assert not hub.requests
    hub.faults = {"POST .*/commit": [503, 403]}
    with caplog.at_level("DEBUG"):
        result = invoke("push", str(model), "--repo-id", REPO)
    token = hub.asked("POST .*/commit")[0].token
    assert token and "may not write" in result.stderr
    assert token not in result.output + result.stderr + caplog.text + "".join(capfd.readouterr())


def test_offline_and_logged_out(hub, model, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(RecipeError, match="HF_HUB_OFFLINE is set"):
        push(model, REPO)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nowhere/token")
    monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", "/nowhere/tokens")
    with pytest.raises(PolygraftError, match=r"no token for the hub was found\. Log in"):
        push(model, REPO)
    assert not hub.requests


def test_nothing_answers(hub, model, unloaded, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        PolygraftError, match=r"http://127.0.0.1:9/me/uk: the upload broke off, or never began .*Check the network"
    ):
        push(model, REPO)


# ---------------------------------------------------------------- what is no model


def _without_weights(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")


def _without_a_tensor(model: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(model / "model.safetensors")
    del tensors["model.encoder.layers.0.fc1.weight"]
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})


def _broken(model: Path) -> None:
    (model / "tokenizer.json").write_text("{")


def _card_of_nothing(model: Path) -> None:
    (model / "README.md").write_text("---\nmodel-index: [{name: x}]\n---\n", encoding="utf-8")


WRONG = {
    "pickled": (_without_weights, CheckpointError, "its weights are pickled .*only safetensors are published"),
    "incomplete": (_without_a_tensor, CheckpointError, "1 weights are missing, such as model.encoder.layers"),
    "broken": (_broken, CheckpointError, "cannot load its model by itself: .*Nothing was sent"),
    "card": (_card_of_nothing, DataError, "README.md: is no model card that the hub can read"),
    "running": (lambda model: _set(model, status="running"), PolygraftError, "is not finished"),
    "gone": (lambda model: shutil.rmtree(model), CheckpointError, "there is no model in it"),
}  # fmt: skip


def _set(model: Path, **values: str) -> None:
    record = json.loads((model / "stage.json").read_text(encoding="utf-8")) | values
    (model / "stage.json").write_text(json.dumps(record), encoding="utf-8")


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_whole_model_is_not_sent(hub, model, what):
    spoil, error, said = WRONG[what]
    spoil(model)
    with pytest.raises(error, match=said):
        push(model, REPO)
    assert not hub.requests or not hub.files


def test_one_model_of_several_has_to_be_named(copy):
    with pytest.raises(
        RecipeError, match=r"holds 2 models, and one is published\. Name it: .*detour/seed-1, .*plain/seed-1"
    ):
        push(copy, REPO, dry_run=True)
    shutil.rmtree(copy / "plain")
    assert push(copy, REPO, dry_run=True).card == copy / "detour" / "seed-1" / "finetune" / "README.md"


@pytest.mark.parametrize("name", ["uk", "a/b/c", "me/u k", "me/-uk"])
def test_a_name_that_is_none_of_the_hub(model, name):
    with pytest.raises(RecipeError, match=r"--repo-id .*Write OWNER/NAME"):
        push(model, name, dry_run=True)
