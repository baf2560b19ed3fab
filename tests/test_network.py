"""Nothing leaves the machine that was not asked for: every verb under a guard, in its process and in those it starts,
which notes and refuses each connection and look-up beyond this machine; and no secret in what the verbs write.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from polygraft.cli import app

pytestmark = pytest.mark.slow

# Python loads it at the start of every process that has its folder on PYTHONPATH; no library can take the hook away.
GUARD = """
import os, sys

def _guard(event, arguments):
    if event not in ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"):
        return
    where = arguments[1] if event in ("socket.connect", "socket.sendto") else arguments
    host = where[0] if isinstance(where, tuple) else where
    host = host.decode() if isinstance(host, bytes) else host
    inside = not isinstance(where, tuple) or host in (None, "", "localhost", "::1") or str(host).startswith("127.")
    if not inside:
        with open(os.environ["GUARD_LOG"], "a") as log:
            log.write(f"{event} {where}\\n")
        raise PermissionError(f"refused: {event} {where}")

sys.addaudithook(_guard)
"""
RUNNER = """
import json, sys
from polygraft.cli import app

for line in json.load(open(sys.argv[1])):
    print("==", *line, file=sys.stderr, flush=True)
    try:
        app(line, standalone_mode=False)
    except SystemExit as end:
        assert not end.code, line
"""
RECIPE = """
name: demo
output_dir: outputs
source: xlmr
target: mbart
seeds: [1, 2]
text: {train_file: text.jsonl, lang: uk, validation_split: 0.25}
pairs: {train_file: pairs.jsonl, validation_file: pairs.jsonl, test_file: pairs.jsonl, source_lang: uk}
adapt: {budget: {steps: 2}, per_device_train_batch_size: 4, max_length_tokens: 24}
transfer: {}
adapt_target: {budget: {steps: 2}, per_device_train_batch_size: 4, max_length_tokens: 24}
finetune: {budget: {steps: 2}, per_device_train_batch_size: 4}
evaluate: {num_beams: 1, max_new_tokens: 4}
forgetting: {test_file: text.jsonl, lang: uk, max_samples: 4}
diagnose: {max_samples: 4, placebos: [random]}
arms: {plain: {adapt: null, transfer: null, adapt_target: null}, detour: {}}
verdict: {treatment: detour, control: plain}
"""
TUNED = "outputs/demo/detour/seed-1/finetune"
DETOUR, PLAIN = (f"outputs/demo/{arm}/seed-1/evaluate/predictions.jsonl" for arm in ("detour", "plain"))

SHORT = "--per-device-train-batch-size 4 --steps 2"
GREEDY = "--num-beams 1 --max-new-tokens 4"
COMMANDS = f"""
check recipe.yaml
diagnose recipe.yaml
run recipe.yaml --jobs 2
report outputs/demo
report outputs/demo --no-text
verdict outputs/demo
schema
env
init --pairs pairs.jsonl --text text.jsonl --source xlmr --target mbart --lang uk --minutes 1 --output drafted.yaml
rank --source xlmr --target mbart --train-file text.jsonl --lang uk
adapt --model xlmr --train-file text.jsonl --lang uk {SHORT} --output-dir one/adapt
transfer --source one/adapt --target mbart --output-dir one/transfer
finetune --model one/transfer --train-file pairs.jsonl --source-lang uk --target-lang uk {SHORT} --output-dir one/tuned
evaluate --model one/tuned --test-file pairs.jsonl {GREEDY} --output-dir one/evaluate
generate --model {TUNED} --input-file pairs.jsonl --output-file out.jsonl {GREEDY}
export --model {TUNED} --validation-file pairs.jsonl --max-samples 2 {GREEDY} --output-dir one/int8
trim --model mbart --train-file pairs.jsonl --text-column text --output-dir one/small
restore --model one/small --full mbart --output-dir one/full
add-language --model mbart --language be_BY=uk_UA --output-dir one/be
push one/tuned --repo-id me/model --dry-run
score {DETOUR} --prediction-column prediction --reference-column reference
compare {DETOUR} --against {PLAIN} --html page.html
"""
SECRETS = {
    "HF_TOKEN": "hf_nobodyshouldseethis",
    "POLYGRAFT_TOKEN": "nobody-should-see-this-either",
    "SECRET_OF_MINE": "sesame",
}


@pytest.fixture(scope="module")
def used(tmp_path_factory, write_tiny_models, sentences) -> Path:
    """A folder in which all verbs have worked, as a user with secrets and without HF_HUB_OFFLINE."""
    folder = tmp_path_factory.mktemp("used")
    write_tiny_models(folder)
    rows = [{"id": f"d{n}", "text": text, "summary": text[:20]} for n, text in enumerate(sentences)]
    for name in ("text", "pairs"):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "recipe.yaml").write_text(RECIPE)
    guard = folder / "guard"
    guard.mkdir()
    (guard / "sitecustomize.py").write_text(GUARD)
    (guard / "lines.json").write_text(json.dumps([line.split() for line in COMMANDS.strip().splitlines()]))
    (guard / "log").touch()
    environment = {
        key: value for key, value in os.environ.items() if key not in ("HF_HUB_OFFLINE", "HF_HUB_ETAG_TIMEOUT")
    }
    paths = [str(guard), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment |= {
        **SECRETS,
        "PYTHONPATH": os.pathsep.join(paths),
        "GUARD_LOG": str(guard / "log"),
        "OMP_NUM_THREADS": "1",
    }
    ran = subprocess.run(
        [sys.executable, "-c", RUNNER, str(guard / "lines.json")],
        cwd=folder, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    (guard / "said").write_text(ran.stdout + ran.stderr)
    return folder


def test_all_verbs_are_tried():
    verbs = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    assert verbs - {line.split()[0] for line in COMMANDS.strip().splitlines()} == {"serve"}  # see tests/serving


def test_the_guard_sees_a_connection(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(GUARD)
    code = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)"
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "GUARD_LOG": str(tmp_path / "log")}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert ran.returncode != 0
    assert "192.0.2.1" in (tmp_path / "log").read_text()


def test_nothing_is_asked_beyond_this_machine(used):
    assert (used / "guard" / "log").read_text() == ""


def test_nothing_that_is_written_or_said_has_a_secret_or_names_the_machine(used):
    hidden = {
        **SECRETS,
        "host": socket.gethostname(),
        "user": getpass.getuser(),
        "home": str(Path.home()),
        "folder": str(used),
    }
    hidden = {what: value for what, value in hidden.items() if len(value) > 4}  # "root" is a word like others
    files = [path for path in used.rglob("*") if path.is_file() and "guard/lines" not in str(path)]
    kept = [path for path in files if path.suffix not in (".safetensors", ".pt", ".pth", ".py") and path.name != "log"]
    found = [
        f"{path.relative_to(used)}: {what}"
        for path in kept
        for what, value in hidden.items()
        if value.encode() in path.read_bytes()
    ]
    assert len(kept) > 100
    assert found == []
