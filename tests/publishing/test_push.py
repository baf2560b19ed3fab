"""What the real client sends to a hub on loopback: what goes, what stays, what is said, and what is tried again."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants
from transformers import AutoModelForSeq2SeqLM

import polygraft
from polygraft.errors import PolygraftError, RecipeError
from polygraft.publishing.push import push

REPO = "me/uk"
LFS_FROM = 10_000  # as the hub of conftest.py has it
MODEL = {
    "README.md",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}


def test_what_arrives_is_the_model_and_its_card(hub, model, tmp_path):
    (model / "runs").mkdir()
    (model / "runs" / "events.out").write_text("log")
    (model / "optimizer.pt").write_bytes(b"state")
    done = push(model, REPO)
    assert set(hub.files) == MODEL and hub.private == {REPO: True}
    for name in MODEL:
        assert hub.files[name] == (model / name).read_bytes(), name
    assert done.url == f"{hub.url}/{REPO}/commit/c0ffee0000000000000000000000000000000000"
    assert {one.path for one in done.uploads} == MODEL
    (commit,) = hub.asked("POST .*/commit/main")
    assert (
        json.loads(commit.body.splitlines()[0])["value"]["summary"]
        == f"Upload a model with polygraft {polygraft.__version__}"
    )
    for name, content in hub.files.items():
        (tmp_path / "arrived").mkdir(exist_ok=True)
        (tmp_path / "arrived" / name).write_bytes(content)
    AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "arrived")
    assert f'from_pretrained("{REPO}"' in hub.files["README.md"].decode()


def test_nothing_that_was_sent_names_this_machine(hub, model, unloaded, run, sentences):
    push(model.parent, REPO)
    sent = b"\n".join(request.body for request in hub.requests) + b"".join(hub.files.values())
    assert len(hub.requests) > 5 and b"secretuser" not in sent and str(Path.home()).encode() + b"/" not in sent
    card = hub.files["README.md"].decode()
    assert "pairs.jsonl" in card and not any(text.split(".")[0] in card for text in sentences)


def test_the_order_of_what_is_asked(hub, model, unloaded):
    """The protocol of the client in constraints.txt; nothing is asked of another host."""
    push(model, REPO, revision="v1")
    ours = [one for one in hub.requests if one.path != "/api/agent-harnesses"]  # which the client asks once per process
    asked = [re.sub(r"[0-9a-f]{40,}", "OID", f"{one.method} {one.path}") for one in ours]
    large = sum(len(content) >= LFS_FROM for content in hub.files.values())
    assert large >= 2
    assert asked[:6] == [
        "POST /api/repos/create", "GET /api/models/me/uk", "POST /api/models/me/uk/branch/v1",
        "POST /api/validate-yaml", "POST /api/models/me/uk/preupload/v1", "POST /me/uk.git/info/lfs/objects/batch",
    ]  # fmt: skip
    assert sorted(asked[6:-1]) == sorted(["PUT /lfs/OID", "POST /verify"] * large)
    assert asked[-1] == "POST /api/models/me/uk/commit/v1"


def test_the_same_by_the_storage_that_the_client_takes_where_it_can(hub, model, unloaded, monkeypatch, tmp_path):
    """Xet: chunks of the weights go to a store of their own, and the commit names them by the sha256 of the file."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    monkeypatch.setenv("HF_XET_CACHE", str(tmp_path / "xet"))
    push(model, REPO)
    assert set(hub.files) == MODEL and not hub.asked("PUT /lfs")
    weights = (model / "model.safetensors").read_bytes()
    assert hub.files["model.safetensors"] == hashlib.sha256(weights).hexdigest().encode()
    assert sum(len(one.body) for one in hub.asked("POST .*/xorbs/")) > 0.5 * len(weights)  # compressed


def test_a_failure_of_that_storage_is_said(hub, model, unloaded, monkeypatch):
    def fail(*arguments, **options):  # as hf_xet does
        raise ConnectionError(
            "Network error: Request error: HTTP status client error (403 Forbidden), domain: http://x"
        )

    monkeypatch.setattr("polygraft.publishing.push.HfApi.create_commit", fail)
    with pytest.raises(PolygraftError, match=r"the upload broke off, .*403 Forbidden.* Run the same command again"):
        push(model, REPO)


def test_the_list_says_what_stays_and_why(copy, invoke):
    seed = copy / "detour" / "seed-1"
    (seed / "finetune" / "notes.txt").write_text("mine")
    result = invoke("push", str(seed), "--repo-id", REPO, "--dry-run")
    assert result.exit_code == 0, result.output
    said = result.stdout
    went, stayed = said.split("left out:")
    assert all(f"  {name} " in went for name in MODEL) and went.startswith("would be uploaded: 6 files, ")
    for name, why in {
        "finetune/stage.json": "names files and folders of this machine", "finetune/metrics.jsonl": "a log",
        "evaluate/": "holds texts of the test data", "finetune/notes.txt": "no part of the model",
    }.items():  # fmt: skip
        assert re.search(rf"^  {re.escape(name)}(?: \(\d+\))? .*{why}$", stayed, re.MULTILINE), (name, stayed)
    assert f"card: {seed}/finetune/README.md" in said
    assert said.endswith(f"push: nothing was sent; it would be {REPO}, private if it is new\n")
    assert (
        "licences: No licence is stated by the model `xlmr` and the text `text.jsonl` and the text `pairs.jsonl`, "
        in said
    )


def test_more_is_sent_if_it_is_asked_for(hub, model, unloaded):
    push(model, REPO, include=["metrics.jsonl", "evaluate/*"])
    assert set(hub.files) - MODEL == {
        "metrics.jsonl",
        "evaluate/predictions.jsonl",
        "evaluate/scores.json",
        "evaluate/stage.json",
    }
    with pytest.raises(RecipeError, match=r"--include predict\*: no file in .*seed-1 has such a name"):
        push(model, REPO, include=["predict*"], dry_run=True)


def test_notes_of_where_things_lie_are_cut(hub, model, unloaded, change):
    change(model / "config.json", _name_or_path="/home/secret/mbart", nested={"_name_or_path": "owner/model"})
    done = push(model, REPO)
    sent = json.loads(hub.files["config.json"])
    assert sent["_name_or_path"] == "mbart" and sent["nested"] == {"_name_or_path": "owner/model"}
    assert [one.path for one in done.uploads if one.content] == ["config.json"]


def test_unmerged_adapters_go_along_and_merged_ones_stay(copy, model, unloaded, change):
    (model / "adapter").mkdir()
    (model / "adapter" / "adapter_model.safetensors").write_bytes(b"")
    (model / "adapter" / "README.md").write_text("base_model: /home/secret")
    config = model / "adapter" / "adapter_config.json"
    config.write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "/home/secret"}))
    found = push(model, REPO, dry_run=True)
    assert {one.path for one in found.uploads} == MODEL
    assert ("finetune/adapter/", "merged into the weights") in [(one.path, one.reason) for one in found.left_out]
    config.write_text(json.dumps({"type": "bottleneck", "adapters": {}}))
    (model / "README.md").unlink()
    config.write_text(json.dumps({"type": "bottleneck", "adapters": {"uk": {"type": "bottleneck"}}}))
    found = push(model, REPO, dry_run=True)
    assert {one.path for one in found.uploads} == MODEL | {
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
    }


# ---------------------------------------------------------------- who sees it


def test_a_public_repository_is_not_pushed_to_by_accident(hub, model, unloaded):
    hub.private[REPO] = False
    with pytest.raises(RecipeError, match="is there already, and public"):
        push(model, REPO)
    assert not hub.files
    assert push(model, REPO, private=False).private is False
    assert set(hub.files) == MODEL


@pytest.mark.parametrize("option", ["--private", "--public"])
def test_what_is_made_is_private_unless_told(hub, model, unloaded, invoke, option):
    result = invoke("push", str(model), "--repo-id", REPO, *([option] if option == "--public" else []))
    assert result.exit_code == 0, result.output
    assert hub.private[REPO] == (option == "--private")


# ---------------------------------------------------------------- the card


def test_a_card_of_ones_own_is_kept(hub, model):
    card = model / "README.md"
    card.write_text("---\nlicense: mit\n---\n\n# My model\n", encoding="utf-8")
    push(model, REPO)
    assert hub.files["README.md"] == card.read_bytes() and b"My model" in hub.files["README.md"]
    with pytest.raises(RecipeError, match=r"is a card of your own\. State it there"):
        push(model, REPO, license="apache-2.0")


def test_licences_of_the_hub_are_looked_up_as_of_the_commit_that_was_used(hub, model, unloaded, change):
    commit = "c0ffee0000000000000000000000000000000000"
    record = json.loads((model.parent / "adapt" / "stage.json").read_text(encoding="utf-8"))
    (name,) = [name for name in record["inputs"] if not name.startswith("file:")]
    inputs = {"them/xlmr" if key == name else key: mark for key, mark in record["inputs"].items()}
    change(model.parent / "adapt" / "stage.json", inputs=inputs | {"them/xlmr": f"them/xlmr@{commit}"})
    hub.cards["them/xlmr"] = "---\nlicense: cc-by-nc-4.0\n---\n"
    done = push(model, REPO, license="mit")
    assert hub.asked(f"GET /them/xlmr/resolve/{commit}/README.md")
    card = hub.files["README.md"].decode()
    assert "| `them/xlmr` | model | cc-by-nc-4.0 |" in card and "base_model:\n- them/xlmr\n" in card
    assert done.findings[0] == (
        "The model `them/xlmr` is under `cc-by-nc-4.0`: no commercial use. This model's, `mit`, does not say that."
    )


# ---------------------------------------------------------------- a process of its own


@pytest.mark.slow
def test_a_command_that_is_killed_goes_on_and_shows_no_token(far_hub, model, tmp_path):
    """With the environment as users have it: HF_ENDPOINT, HF_TOKEN, the client's own log of all requests."""
    token = "hf_thisTokenIsOnlyForTests"
    settings = {"HF_ENDPOINT": far_hub.url, "HF_TOKEN": token, "HF_HOME": str(tmp_path / "home"), "HF_DEBUG": "1"}
    environment = os.environ | settings | {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "polygraft", "push", str(model), "--repo-id", REPO]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path
        )

    first = start()

    def kill() -> int:
        first.kill()
        return 503

    far_hub.faults = {"POST .*/commit": [kill]}
    said = first.communicate(timeout=120)[0]
    assert first.returncode == -signal.SIGKILL and far_hub.blobs and not far_hub.files
    sent = len(far_hub.asked("PUT"))
    second = start()
    said += second.communicate(timeout=120)[0]
    assert second.returncode == 0, said
    assert set(far_hub.files) == MODEL and len(far_hub.asked("PUT")) == sent
    assert "Request " in said and token not in said
