"""Every command and every line of Python in the README is run, and so is every recipe; only budgets are cut."""

import asyncio
import json
import os
import re
import shlex
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import uvicorn
import yaml

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHORT = [
    "seeds=[1]", "finetune.budget={steps: 2}", "finetune.eval_steps=2", "evaluate.max_samples=6", 
    "evaluate.num_beams=1", "evaluate.max_new_tokens=4",
]  # fmt: skip
NANO = {
    "source": "polygraft/nano-xlmr", "target": "polygraft/nano-mbart",
    "text.train_file": "polygraft/sample/uk/adapt.parquet", "pairs.train_file": "polygraft/sample/uk/train.parquet",
    "pairs.validation_file": "polygraft/sample/uk/validation.parquet",
    "pairs.test_file": "polygraft/sample/uk/test.parquet",
}  # fmt: skip


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def shortened(recipe: Path) -> str:
    """The options that cut a recipe's budgets, at its top and in all its arms."""
    content = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    cuts = [*SHORT]
    arms = {f"arms.{arm}.": sections for arm, sections in content.get("arms", {}).items()}
    shared = "adaptation_budget" in content  # which leaves something after two steps of what comes before
    cuts += ["adaptation_budget={tokens: 3000}"] * shared + ["forgetting.max_samples=1"] * ("forgetting" in content)
    for place, sections in {"": content, **arms}.items():
        trained = [
            s for s in ("adapt", "transfer", "warm_up", "adapt_target") if "learning_rate" in (sections.get(s) or {})
        ]
        cuts += [f"{place}{s}.{cut}" for s in trained for cut in ("per_device_train_batch_size=4", "eval_steps=1e6")]
        cuts += [f"{place}{s}.budget={{steps: 2}}" for s in trained if not (shared and s == "adapt_target")]
    return " ".join(f"--set '{cut}'" for cut in cuts)


@pytest.fixture
def polygraft(invoke, tmp_path, monkeypatch):
    """Runs a line of `polygraft ...` as a shell would, in this process and an empty folder; returns what it prints.

    A process of its own would take four seconds, for imports. What is piped into the command is `echo`'s.
    """
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")

    def _run(line: str) -> str:
        echoed, _, command = line.rpartition(" | ")
        program, *arguments = shlex.split(command)
        assert program == "polygraft"
        stdin = None
        if echoed:
            echo, *words = shlex.split(echoed)
            assert echo == "echo"
            stdin = " ".join(words) + "\n"
        result = invoke(*arguments, stdin=stdin)
        assert result.exit_code == 0, result.output[-2000:]
        return result.stdout

    return _run


def block(command: str) -> list[str]:
    """The lines of the README's block that has the command."""
    (found,) = [found.splitlines() for found in blocks("sh") if f"polygraft {command} " in found]
    return found


def test_stage_commands_then_python(polygraft, capsys, monkeypatch):
    for line in block("adapt"):
        printed = polygraft(line.replace("--steps 20", "--steps 2"))
    assert "would be uploaded: 6 files" in printed and "nothing was sent" in printed
    (line,) = block("serve")
    assert [model["name"] for model in json.loads(served(polygraft, monkeypatch, line))] == ["uk/finetune", "uk/int8"]
    (code,) = blocks("python")
    exec(code, {})
    assert capsys.readouterr().out.startswith("[")


def served(polygraft, monkeypatch, line: str) -> str:
    """Runs a line of `polygraft serve`, and ends it when it has answered; returns what it says of its models."""
    run, answers = uvicorn.Server.serve, []

    async def serve(server, sockets):
        running = asyncio.ensure_future(run(server, sockets))
        while not server.started:
            await asyncio.sleep(0.01)
        host, port = sockets[0].getsockname()
        address = f"http://{host}:{port}/api/models"
        answers.append(await asyncio.to_thread(lambda: urllib.request.urlopen(address, timeout=20).read().decode()))
        server.should_exit = True
        await running

    monkeypatch.setattr(uvicorn.Server, "serve", serve)
    polygraft(f"{line} --port 0")
    return answers[0]


def test_commands_of_what_trainers_have(polygraft, tmp_path):
    (lines,) = [found.splitlines() for found in blocks("sh") if "--early-stopping-patience" in found]
    for line in lines:
        polygraft(line + " --steps 2 --generation-max-samples 4" + " --generation-max-length 8")
    assert list((tmp_path / "outputs/uk/best/runs").glob("events.*"))
    assert (tmp_path / "outputs/two/model.safetensors").is_file()


def test_outputs_of_any_toolkit(polygraft, tmp_path):
    for system, words in (("a", "Невеликий редактор"), ("b", "Малий")):
        (tmp_path / system).mkdir()
        for seed in (1, 2, 3):
            texts = [(f"{words} {'файлів ' * n}{seed}", f"Редактор файлів {n}") for n in range(9)]
            rows = [{"prediction": output, "reference": reference} for output, reference in texts]
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (tmp_path / system / f"{seed}.jsonl").write_text(lines, encoding="utf-8")
    said = [polygraft(line) for line in block("compare")]
    assert [line.splitlines()[-1].startswith("Repeats: seq-rep-2|") for line in said] == [True, True]
    assert (tmp_path / "page.html").exists()


def test_a_command_in_a_shell(tmp_path):
    """The lines that the other tests run in their own process are such that a shell and the installed program run."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    (line,) = [line for line in block("trim") if "trim" in line]
    environment = {**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        ["bash", "-ec", line], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert (tmp_path / "outputs/uk/small/model.safetensors").is_file()


# What goes on from what another command left stays in one test.
RECIPE_COMMANDS = (("rank",), ("check",), ("diagnose", "run", "run", "report", "verdict"))


@pytest.mark.parametrize("verbs", RECIPE_COMMANDS, ids="-".join)
def test_recipe_commands(polygraft, tmp_path, verbs):
    printed, cuts = "", shortened(ROOT / "recipes" / "demo.yaml")
    for line in block("run"):
        verb = line.split()[1]
        if verb in verbs:
            few = " --set 'diagnose={max_samples: 4, placebos: [untuned]}'" * (verb == "diagnose")
            printed += polygraft(line + (f" {cuts}{few}" if verb in ("diagnose", "run") else ""))
    assert printed
    if "run" in verbs:
        assert "Not enough evidence" in printed  # one seed
        assert {path.name for path in (tmp_path / "outputs/demo").glob("*.html")} == {
            "report.html",
            "report-no-text.html",
        }


def test_every_recipe_command_is_in_one_of_those():
    assert tuple(line.split()[1] for line in block("run")) == tuple(verb for verbs in RECIPE_COMMANDS for verb in verbs)


def test_a_recipe_is_drafted_and_checked(polygraft):
    for line in block("init"):
        printed = polygraft(line)
    assert "recipe: ok." in printed


def test_checkpoint_commands(polygraft, tmp_path):
    for line in block("trim"):
        polygraft(line)
    assert (tmp_path / "outputs/be/model.safetensors").is_file()


@pytest.mark.slow
def test_recipe_of_every_method(polygraft, tmp_path):
    """Three of its eight arms, the ones that no other recipe has; all of them take minutes even when cut."""
    content = yaml.safe_load((ROOT / "recipes" / "methods.yaml").read_text(encoding="utf-8"))
    content["arms"] = {arm: content["arms"][arm] for arm in ("direct", "distill", "encoder")}
    del content["verdict"]
    path = tmp_path / "methods.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    few = "--set diagnose='{max_samples: 4, placebos: []}' --set text.train_file=polygraft/sample/uk/validation.parquet"
    printed = polygraft(f"polygraft diagnose {path} {shortened(path)} {few}")
    assert printed.count("Open: ") + printed.count("o-go: ") + printed.count("Go: ") == 2


RUN_ABOVE = ("demo.yaml", "methods.yaml")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", sorted({p.name for p in (ROOT / "recipes").glob("*.yaml")} - {*RUN_ABOVE}))
def test_every_other_recipe(polygraft, recipe):
    text = (ROOT / "recipes" / recipe).read_text(encoding="utf-8")
    given = {} if "polygraft/sample" in text else NANO  # for files that only its user has
    nano = " ".join(f"--set {key}={value}" for key, value in given.items())
    small = "--set finetune.per_device_train_batch_size=4 --set finetune.gradient_accumulation_steps=1"
    polygraft(f"polygraft run recipes/{recipe} {nano} {small} {shortened(ROOT / 'recipes' / recipe)}")


def test_every_link_leads_somewhere():
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("target", ["demo", "test"])
def test_make_targets_of_the_readme_exist(target):
    assert f"make {target}" in README
    result = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {"demo": "recipes/demo.yaml", "test": "pytest"}[target] in result.stdout
