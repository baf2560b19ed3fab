"""Every command and every line of Python in the README is run, and so is every recipe; only budgets are cut."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
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
    cuts += ["adaptation_budget={tokens: 3000}"] * shared
    for place, sections in {"": content, **arms}.items():
        trained = [
            s for s in ("adapt", "transfer", "warm_up", "adapt_target") if "learning_rate" in (sections.get(s) or {})
        ]
        cuts += [f"{place}{s}.{cut}" for s in trained for cut in ("per_device_train_batch_size=4", "eval_steps=1e6")]
        cuts += [f"{place}{s}.budget={{steps: 2}}" for s in trained if not (shared and s == "adapt_target")]
    return " ".join(f"--set '{cut}'" for cut in cuts)


def shell(command: str, cwd: Path) -> subprocess.CompletedProcess:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        ["bash", "-ec", command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def test_stage_commands_then_python(tmp_path):
    (commands,) = [block for block in blocks("sh") if "polygraft adapt" in block]
    result = shell(commands.replace("--steps 20", "--steps 2"), tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    (code,) = blocks("python")
    result = shell(f"{sys.executable} - <<'CODE'\n{code}\nCODE", tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.startswith("[")


def test_recipe_commands(tmp_path):
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    (commands,) = [block for block in blocks("sh") if "polygraft run" in block]
    cuts = shortened(ROOT / "recipes" / "demo.yaml")
    commands = commands.replace(
        "polygraft diagnose", "polygraft diagnose --set 'diagnose={max_samples: 4, placebos: [untuned]}'"
    )
    commands = re.sub(r"(polygraft (?:run|diagnose).* recipes/\S+)", rf"\1 {cuts}", commands)
    result = shell(commands, tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "Not enough evidence" in result.stdout  # one seed
    assert (tmp_path / "outputs/demo/report.html").is_file()


def test_checkpoint_commands(tmp_path):
    (commands,) = [block for block in blocks("sh") if "polygraft trim" in block]
    result = shell(commands, tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    assert (tmp_path / "outputs/be/model.safetensors").is_file()


def test_recipe_of_every_method(tmp_path):
    """Three of its ten arms, the ones that no other recipe has; all of them take minutes even when cut."""
    content = yaml.safe_load((ROOT / "recipes" / "methods.yaml").read_text(encoding="utf-8"))
    content["arms"] = {arm: content["arms"][arm] for arm in ("direct", "map", "encoder")}
    del content["verdict"]
    path = tmp_path / "methods.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    few = "--set diagnose='{max_samples: 4, placebos: []}' --set text.train_file=polygraft/sample/uk/validation.parquet"
    result = shell(f"polygraft diagnose {path} {shortened(path)} {few}", tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.count("Open: ") + result.stdout.count("o-go: ") + result.stdout.count("Go: ") == 2


RUN_ABOVE = ("demo.yaml", "methods.yaml")


@pytest.mark.parametrize("recipe", sorted({p.name for p in (ROOT / "recipes").glob("*.yaml")} - {*RUN_ABOVE}))
def test_every_other_recipe(tmp_path, recipe):
    path = ROOT / "recipes" / recipe
    nano = " ".join(f"--set {key}={value}" for key, value in NANO.items())
    small = "--set finetune.per_device_train_batch_size=4 --set finetune.gradient_accumulation_steps=1"
    result = shell(f"polygraft run {path} {nano} {small} {shortened(path)}", tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]


def test_every_link_leads_somewhere():
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("target", ["demo", "test"])
def test_make_targets_of_the_readme_exist(target):
    assert f"make {target}" in README
    result = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {"demo": "recipes/demo.yaml", "test": "pytest"}[target] in result.stdout
