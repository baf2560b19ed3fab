"""What every benchmark prints of the machine, and where it writes its table."""

from __future__ import annotations

from datetime import date
from pathlib import Path


def about() -> str:
    """Date, machine and versions, in one line."""
    from polygraft import machine

    facts = machine.describe() | {name: machine.versions()[name] for name in ("torch", "transformers")}
    return f"{date.today().isoformat()}; " + ", ".join(f"{name} {value}" for name, value in facts.items())


def write_section(page: Path, heading: str, content: str) -> None:
    """Replace the part of a page under `## heading`, or add it at the end."""
    text = page.read_text(encoding="utf-8")
    sections = text.split("\n## ")
    new = f"{heading}\n\n{content.strip()}\n"
    names = [section.partition("\n")[0] for section in sections]
    if heading in names[1:]:
        sections[names.index(heading)] = new
    else:
        sections[-1] = sections[-1].rstrip("\n") + "\n"
        sections.append(new)
    page.write_text("\n## ".join(sections), encoding="utf-8")
