"""Every transfer method and its placebos on the nano pair, on several texts: docs/results-tables.md.

    python examples/debian/stories.py --language pl --out data/stories
    python examples/nano/methods.py --text uk         # each of them can run in a process of its own
    python examples/nano/methods.py --write docs/results-tables.md

What is done is kept; run again, it goes on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from polygraft import diagnosis
from polygraft.recipe.reading import load_recipe
from polygraft.report.formats import MINUS
from polygraft.scoring.intervals import Estimate

TEXTS = {"uk": "Ukrainian", "pl": "Polish", "ko": "Korean", "pl-stories": "Polish, a game's stories"}
STORIES = [  # news to the source, which gets more of the budget; only methods that move a change are of interest
    "text.train_file=data/stories/pl.jsonl", "adaptation_budget.flops=3e12", "adapt.budget.flops=1e12",
    "arms.bottleneck.adapt.learning_rate=3e-3", "arms.lora.adapt.learning_rate=2e-3",
    "arms.distill.transfer.budget.flops=7e11", "arms.encoder=null",
]  # fmt: skip
PLACEBOS = ("recentre", "random", "permuted", "untuned")
TABLES, END = "<!-- tables -->\n", "<!-- end -->"


def run(text: str, out: Path) -> dict[str, Any]:
    """Diagnose recipes/methods.yaml on a text."""
    language, _, stories = text.partition("-")
    sample = f"polygraft/sample/{language}"
    changes = [
        f"name=methods-{text}", f"output_dir={out}", f"text.lang={language}", f"pairs.source_lang={language}",
        f"text.train_file={sample}/adapt.parquet",
        *(f"pairs.{split}_file={sample}/{split}.parquet" for split in ("train", "validation", "test")),
        *(STORIES if stories else ()),
    ]  # fmt: skip
    return diagnosis.run(load_recipe(Path(__file__).parents[2] / "recipes" / "methods.yaml", changes))


def table(found: dict[str, Any]) -> str:
    """One line per method: its states, and what it gains over direct denoising and over its placebos."""
    states = {(state["arm"], state["stage"]): state for state in found["states"]}
    direct = found["direct"]
    lines = [
        "| method | after the transfer | before fine-tuning | whole text | reliance | "
        f"over `{direct}` | KCF, transfer alone | direction | "
        + " | ".join(f"over {name}" for name in PLACEBOS) + " | |",
        "|---" * (9 + len(PLACEBOS)) + "|",
    ]  # fmt: skip
    without = [arm for arm in dict.fromkeys(arm for arm, _ in states) if arm.startswith("direct")]
    lines += [f"| `{arm}` | {_ends(states, arm)} | | | |{' |' * len(PLACEBOS)} |" for arm in without]
    for arm in found["arms"]:
        gains = {one["name"].rpartition("+")[2]: _gains(one) for one in arm["against"]}
        carried = arm["carried"] and Estimate(**arm["carried"]).text()
        cells = [f"`{arm['arm']}`", _ends(states, arm["arm"]), gains[direct], carried or ""]
        cells.append("" if arm["direction"] is None else f"{arm['direction']:.2f}".replace("-", MINUS))
        cells += [gains.get(name, "") for name in PLACEBOS]
        lines.append(f"| {' | '.join(cells)} | {arm['decision']} |")
    return "\n".join(lines)


def arrived(folder: Path) -> str:
    """What carried adapters change of the encoder's last states, beside what they should, and their placebos."""
    lines = ["| adapter | wanted change | cosine | of random, permuted | beyond the mean | of random, permuted |"]
    lines += ["|---" * 6 + "|"]
    for arm in ("bottleneck", "lora"):
        kinds = ("", "+random", "+permuted")
        files = [next(folder.glob(f"{arm}{kind}/seed-*/transfer/diagnostics.json")) for kind in kinds]
        real, *rivals = (json.loads(file.read_text(encoding="utf-8")) for file in files)
        cells = [f"`{arm}`", f"{real['end_wanted']:.2f} of the spread"]
        for key in ("end_cosine", "end_cosine_centred"):
            cells += [f"{real[key]:.2f}", ", ".join(f"{one[key]:.2f}" for one in rivals)]
        lines.append(f"| {' | '.join(cells)} |".replace("-", MINUS))
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
    parser.add_argument("--text", choices=TEXTS, help="only this one; nothing is written")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", type=Path, help="a page whose tables are replaced")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    parts = []
    for text in [args.text] if args.text else TEXTS:
        found = run(text, args.out)
        start = found["targets"][0]
        about = f"{TEXTS[text]}: {found['documents']} held-out documents; the target as it was "
        about += f"{Estimate(**start['loss']).text()}, {start['dead_share']:.0%} of the text's tokens never learned."
        parts += [about, table(found), arrived(args.out / f"methods-{text}")]
    versions = ", ".join(f"{name} {found['versions'][name]}" for name in ("torch", "transformers"))
    parts.append(f"`python examples/nano/methods.py`; {versions}.")
    content = "\n\n".join(parts)
    print(content)
    if args.write and not args.text:
        page = args.write.read_text(encoding="utf-8")
        before, rest = page.split(TABLES)
        _, after = rest.split(END)
        page = f"{before}{TABLES}\n{content}\n\n{END}{after}"
        args.write.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
