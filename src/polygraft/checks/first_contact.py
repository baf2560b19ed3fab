"""What a real pair of checkpoints looks like to polygraft, against what should be seen: one block for a report.

polygraft is made where no published weights can be had, so that the first user who has them is the test. Every line is
`ok`, `surprising` (not what is known of XLM-R and mBART: tell us) or `failed`. No path, host or user is named.
"""

from __future__ import annotations

import getpass
import math
import platform
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from polygraft import machine
from polygraft.models import checkpoints
from polygraft.recipe import Recipe

Status = Literal["ok", "surprising", "failed"]


@dataclass(frozen=True)
class Line:
    """One finding: its status, what was looked at, and what was seen."""

    status: Status
    name: str
    seen: str

    def __str__(self) -> str:
        return f"{self.status:<10}  {self.name:<20}  {self.seen}"


@dataclass
class Findings:
    """All lines so far; what goes wrong while one is made is a line itself."""

    hidden: tuple[str, ...]
    lines: list[Line] = field(default_factory=list)

    def add(self, name: str, seen: str, *, surprising: bool = False, failed: bool = False) -> None:
        status: Status = "failed" if failed else "surprising" if surprising else "ok"
        self.lines.append(Line(status, name, self.without_names(seen)))

    @contextmanager
    def guarded(self, name: str) -> Iterator[None]:
        """Turn what is raised inside into a line, so that the rest is looked at all the same."""
        try:
            yield
        except Exception as error:
            reason = (str(error).strip() or "no reason given").splitlines()[0]
            self.add(name, f"{type(error).__name__}: {reason}", failed=True)

    def without_names(self, text: str) -> str:
        """Leave folders, host and user out of a text, and anything that would break its line."""
        text = re.sub(r"(?:~|[A-Za-z]:)?[/\\](?:[^\s/\\:'\"]+[/\\])+", "…/", text)
        for name in self.hidden:
            text = re.sub(rf"\b{re.escape(name)}\b", "…", text)
        return " ".join(text.split())[:300]


def run(recipe: Recipe, on_line: Callable[[Line], None] = lambda _: None) -> str:
    """Load a recipe's source and target, look at them, take one step of every stage; return the block.

    Takes minutes and, in a temporary folder, disk for three checkpoints of the target; nothing else is written.
    """
    from polygraft.checks.first_contact_stages import look_at_stages
    from polygraft.checks.first_contact_vocabulary import look_at_vocabularies

    findings = Findings(_own_names())
    started, said = time.monotonic(), 0
    sides = {side: name for side, name in (("source", recipe.source), ("target", recipe.target)) if name}

    def say() -> None:
        nonlocal said
        for line in findings.lines[said:]:
            on_line(line)
        said = len(findings.lines)

    for side, name in sides.items():
        with findings.guarded(f"{side}: load"):
            look_at_model(findings, side, name)
        say()
    with findings.guarded("vocabularies"):
        look_at_vocabularies(findings, recipe.source, recipe.target)
    say()
    with tempfile.TemporaryDirectory() as folder, findings.guarded("stages"):
        look_at_stages(findings, recipe, Path(folder), say)
    say()
    return block(findings, sides, time.monotonic() - started)


def _own_names() -> tuple[str, ...]:
    names = {platform.node(), platform.node().partition(".")[0], Path.home().name}
    with suppress(KeyError, OSError):  # a user without a name
        names.add(getpass.getuser())
    return tuple(sorted((name for name in names if len(name) > 2), key=len, reverse=True))


def look_at_model(findings: Findings, side: str, name: str) -> None:
    """Load one checkpoint; see its size, its ties, and whether its logits are those of plain transformers."""
    started = time.monotonic()
    model: Any = checkpoints.load_any(name)
    seconds = time.monotonic() - started
    count = sum(parameter.numel() for parameter in model.parameters())
    findings.add(
        f"{side}: load",
        f"{model.config.model_type}, {count / 1e6:,.1f} million parameters, {model.config.vocab_size:,} rows, "
        f"{seconds:.0f} s, {_format_of(name)}",
    )
    tied = model.get_input_embeddings().weight.data_ptr() == model.get_output_embeddings().weight.data_ptr()
    words = (
        "the output matrix is the input matrix" if tied else "the output matrix is another one; published ones share it"
    )
    findings.add(f"{side}: ties", words, surprising=not tied)
    bad = [key for key, tensor in model.state_dict().items() if not bool(torch.isfinite(tensor).all())]
    findings.add(
        f"{side}: numbers", f"{len(bad)} tensors hold what is no number{f', such as {bad[0]}' if bad else ''}",
        failed=bool(bad),
    )  # fmt: skip
    with findings.guarded(f"{side}: logits"):
        _compare_logits(findings, side, name, model)


def _format_of(name: str) -> str:
    pickled = not any(checkpoints.file_of(checkpoints.local_folder(name), file) for file in checkpoints.WEIGHTS)
    return "pickled" if pickled else "safetensors"


@torch.inference_mode()
def _compare_logits(findings: Findings, side: str, name: str, model: Any) -> None:
    """Logits of a sentence, from ids and model as polygraft loads them and as plain transformers does."""
    from transformers import AutoModelForMaskedLM, AutoModelForSeq2SeqLM, AutoTokenizer

    from polygraft.checks.first_contact_vocabulary import SENTENCES

    texts = [text for _, text, _ in SENTENCES]
    ours, plain = checkpoints.load_tokenizer(name), AutoTokenizer.from_pretrained(checkpoints.local_folder(name))
    named, used = type(plain).__name__, type(ours).__name__
    ids, theirs = ours(texts)["input_ids"], plain(texts)["input_ids"]
    unlike = sum(one != other for one, other in zip(ids, theirs, strict=True))
    # cc25's class drops the normalizer: polygraft mends that, and these sentences do not show it
    findings.add(
        f"{side}: tokenizer", f"{used}; plain transformers loads {named}, and splits {unlike} of {len(ids)} unlike",
        surprising=named != used or unlike > 0,
    )  # fmt: skip
    kind = AutoModelForSeq2SeqLM if model.config.is_encoder_decoder else AutoModelForMaskedLM
    other = kind.from_pretrained(checkpoints.local_folder(name), dtype=torch.float32).eval()
    error = 0.0
    for row in ids[:3]:
        batch = {"input_ids": torch.tensor([row])}
        if model.config.is_encoder_decoder:
            batch["labels"] = batch["input_ids"]
        mine, its = model.eval()(**batch).logits, other(**batch).logits
        error = max(error, float((mine - its).abs().max()) if mine.shape == its.shape else math.inf)
    words = "equal to plain transformers' by the bit" if error == 0 else f"off plain transformers' by {error:.3g}"
    findings.add(f"{side}: logits", words, surprising=0 < error <= 1e-3, failed=not error <= 1e-3)


def block(findings: Findings, sides: dict[str, str], seconds: float) -> str:
    """The text to paste: versions and machine, a line for each finding, and their number."""
    about, versions = machine.describe(), machine.versions()
    names = ", ".join(f"{package} {versions[package]}" for package in ("polygraft", "torch", "transformers"))
    system = f"python {about['python']}, {platform.system()} {platform.machine()}, {about['cpus']} CPUs"
    lines = ["POLYGRAFT FIRST CONTACT 1", names, f"{system}, {about['device']}"]
    for side, name in sides.items():
        lines.append(f"{side}: {Path(name).name if Path(name).is_dir() else name}")
    counts = {status: sum(line.status == status for line in findings.lines) for status in Status.__args__}  # type: ignore[attr-defined]
    total = ", ".join(f"{count} {status}" for status, count in counts.items())
    return "\n".join([*lines, "", *map(str, findings.lines), "", f"{total}; {seconds:.0f} s"])
