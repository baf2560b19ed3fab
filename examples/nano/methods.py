"""Every transfer method and its placebos on the nano pair, in several languages: the tables of docs/methods.md.

    python examples/nano/methods.py --language uk     # each of them can run in a process of its own
    python examples/nano/methods.py --write docs/methods.md

What is done is kept; run again, it goes on.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import torch

from polygraft import diagnose
from polygraft.measure.intervals import Estimate
from polygraft.recipe_io import load_recipe
from polygraft.report.formats import MINUS

LANGUAGES = {"uk": "Ukrainian", "pl": "Polish", "ko": "Korean"}
PLACEBOS = ("recentre", "random", "permuted", "untuned")
HEADING = "## What each method carries on the nano pair"


def run(language: str, out: Path) -> dict[str, Any]:
    """Diagnose recipes/methods.yaml on the bundled text of a language."""
    sample = f"polygraft/sample/{language}"
    changes = [
        f"name=methods-{language}", f"output_dir={out}", f"text.lang={language}", f"pairs.source_lang={language}",
        f"text.train_file={sample}/adapt.parquet",
        *(f"pairs.{split}_file={sample}/{split}.parquet" for split in ("train", "validation", "test")),
    ]  # fmt: skip
    return diagnose.run(load_recipe(Path(__file__).parents[2] / "recipes" / "methods.yaml", changes))


def table(found: dict[str, Any]) -> str:
    """One line per method: its states, and what it gains over direct denoising and over its placebos."""
    states = {(state["arm"], state["stage"]): state for state in found["states"]}
    direct = found["direct"]
    lines = [
        "| method | after the transfer | before fine-tuning | whole text | reliance | "
        f"over `{direct}` | KCF, transfer alone | " + " | ".join(f"over {name}" for name in PLACEBOS) + " | |",
        "|---" * (8 + len(PLACEBOS)) + "|",
    ]  # fmt: skip
    without = [arm for arm in dict.fromkeys(arm for arm, _ in states) if arm.startswith("direct")]
    lines += [f"| `{arm}` | {_ends(states, arm)} | | |{' |' * len(PLACEBOS)} |" for arm in without]
    for arm in found["arms"]:
        gains = {one["name"].rpartition("+")[2]: _gains(one) for one in arm["against"]}
        carried = arm["carried"] and Estimate(**arm["carried"]).text()
        cells = [f"`{arm['arm']}`", _ends(states, arm["arm"]), gains[direct], carried or ""]
        cells += [gains.get(name, "") for name in PLACEBOS]
        lines.append(f"| {' | '.join(cells)} | {arm['decision']} |")
    return "\n".join(lines)


def _gains(one: dict[str, Any]) -> str:
    return f"{Estimate(**one['gain']).text(signed=True)}; whole {one['whole']['value']:+.2f}".replace("-", MINUS)


def _ends(states: dict[tuple[str, str], dict[str, Any]], arm: str) -> str:
    last = states[arm, "adapt_target"]
    figures = [states[arm, "transfer"]["loss"], last["loss"], last["whole"], last["reliance"]]
    return " | ".join(f"{figure['value']:.2f}" for figure in figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs"))
    parser.add_argument("--language", choices=LANGUAGES, help="only this one; nothing is written")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", type=Path, help="a page whose part under the tables' heading is replaced")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    parts = []
    for language in [args.language] if args.language else LANGUAGES:
        found = run(language, args.out)
        start = found["targets"][0]
        about = f"{LANGUAGES[language]}: {found['documents']} held-out documents; the target as it was "
        about += f"{Estimate(**start['loss']).text()}, {start['dead_share']:.0%} of the text's tokens never learned."
        parts += [about, table(found)]
    versions = ", ".join(f"{name} {found['versions'][name]}" for name in ("torch", "transformers"))
    parts.append(f"`python examples/nano/methods.py`; {versions}.")
    content = "\n\n".join(parts)
    print(content)
    if args.write and not args.language:
        page = args.write.read_text(encoding="utf-8")
        pattern = rf"({re.escape(HEADING)}\n.*?<!-- tables -->\n).*?(<!-- end -->)"
        page, count = re.subn(pattern, lambda m: f"{m[1]}\n{content}\n\n{m[2]}", page, flags=re.S)
        assert count == 1, f"{args.write}: no '{HEADING}' with <!-- tables --> and <!-- end -->"
        args.write.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
