"""Licences: what a model card or a data set's card states, and what follows from that by rule.

The rules see names of licences, nobody reads the licences themselves: no legal advice.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal

import huggingface_hub
import yaml

from polygraft.data.hub import PREFIX
from polygraft.errors import DataError
from polygraft.models import checkpoints
from polygraft.nano import FOLDER, bundled
from polygraft.nano import PREFIX as BUNDLED

Kind = Literal["model", "text"]
FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n---", re.DOTALL)
BUNDLED_TEXT = "each Debian package's own"  # what nano/NOTICE says in full
NOTICE = FOLDER / "NOTICE"

# Identifiers as the hub has them. Creative Commons' name their terms themselves.
FREE = {
    *("apache-2.0", "mit", "bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "isc", "zlib", "unlicense"),
    *("wtfpl", "cc0-1.0", "pddl", "odc-by", "afl-3.0", "artistic-2.0", "bsl-1.0", "postgresql", "ncsa", "ms-pl"),
    *("ecl-2.0", "cdla-permissive-1.0", "cdla-permissive-2.0", "etalab-2.0", "ofl-1.1", "lppl-1.3c", "openmdw-1.0"),
}
SHARE_ALIKE = {
    *("gpl", "gpl-2.0", "gpl-3.0", "agpl-3.0", "lgpl", "lgpl-2.1", "lgpl-3.0", "mpl-2.0", "epl-1.0", "epl-2.0"),
    *("eupl-1.1", "eupl-1.2", "osl-3.0", "odbl", "gfdl", "cdla-sharing-1.0"),
}
OWN_TERMS = {
    *("openrail", "openrail++", "creativeml-openrail-m", "bigscience-openrail-m", "bigscience-bloom-rail-1.0"),
    *("bigcode-openrail-m", "gemma", "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "llama4", "lgpl-lr", "cc"),
    *("deepfloyd-if-license", "c-uda", "apple-ascl", "apple-amlr", "intel-research", "h-research", "unknown"),
    *("fair-noncommercial-research-license", "grok2-community"),
}
CREATIVE_COMMONS = re.compile(r"cc-by(-nc)?(-sa|-nd)?-\d\.\d")


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What the rules know of a licence."""

    non_commercial: bool = False
    share_alike: bool = False
    no_derivatives: bool = False

    @classmethod
    def of(cls, licence: str) -> Terms | None:
        """Those of a licence by its identifier, None of one that the rules do not know."""
        name = licence.lower()
        if found := CREATIVE_COMMONS.fullmatch(name):
            return cls(non_commercial=bool(found[1]), share_alike=found[2] == "-sa", no_derivatives=found[2] == "-nd")
        if name in FREE | SHARE_ALIKE:
            return cls(share_alike=name in SHARE_ALIKE)
        return None


@dataclass(frozen=True)
class Origin:
    """A model or a text that a model was made from.

    Attributes:
        name: as it may be shown.
        licence: the one that it states, None where nothing does.
        hub, commit: its id on the hub and the commit that was used, None if it is not of the hub.
    """

    name: str
    kind: Kind
    licence: str | None
    hub: str | None = None
    commit: str | None = None

    @property
    def terms(self) -> Terms | None:
        return Terms.of(self.licence) if self.licence else None

    @property
    def bundled(self) -> bool:
        return self.name.startswith(BUNDLED)

    def __str__(self) -> str:
        return f"the {self.kind} `{self.name}`"


def licence(name: str) -> str | None:
    """Return the licence that a model's card states, in the checkpoint's folder or the hub's cache; None if none."""
    folder = Path(checkpoints.resolve(name))
    return stated(folder / "README.md" if folder.is_dir() else _cached(*checkpoints.split_revision(name), "model"))


def licence_of_text(name: str) -> str | None:
    """Return the licence that the card of a data set states: beside a file, or in the hub's cache; None if none."""
    if name.startswith(PREFIX):
        return stated(_cached(*hub_id(name), "dataset"))
    with contextlib.suppress(DataError):  # it has the form of a bundled name
        if bundled(name):
            return BUNDLED_TEXT
    return stated(Path(name).parent / "README.md")


def hub_id(name: str) -> tuple[str, str | None]:
    """The id and the revision in the name of a data set of the hub."""
    return checkpoints.split_revision(name.removeprefix(PREFIX).partition(":")[0])


def _cached(hub: str, revision: str | None, kind: str) -> Path | None:
    found = huggingface_hub.try_to_load_from_cache(hub, "README.md", revision=revision, repo_type=kind)
    return Path(found) if isinstance(found, str) else None


def stated(card: Path | None) -> str | None:
    """Return the licence in a card's front matter; several are joined, `other` is what it names instead."""
    if card is None or not card.is_file():
        return None
    found = FRONT_MATTER.match(card.read_text(encoding="utf-8", errors="replace"))
    try:
        content = yaml.safe_load(found[1]) if found else None
    except yaml.YAMLError:
        return None
    if not isinstance(content, dict):
        return None
    name = content.get("license_name") if content.get("license") == "other" else content.get("license")
    return ", ".join(map(str, name)) if isinstance(name, list) else str(name) if name else None


def is_hub_licence(name: str) -> bool:
    """Whether a name is one of the hub's identifiers of licences; of another one it wants a name of its own."""
    return Terms.of(name) is not None or name in OWN_TERMS


def look_up(origin: Origin) -> None:
    """Have the hub's card of a model or a data set in the cache, as of the commit that was used; if it can be had."""
    if origin.hub:
        kind = "dataset" if origin.kind == "text" else "model"
        with contextlib.suppress(OSError, ValueError):  # none there, no permission, no network
            huggingface_hub.hf_hub_download(origin.hub, "README.md", revision=origin.commit, repo_type=kind)


def carried(origins: Sequence[Origin]) -> str | None:
    """Return the licence that a model made from these takes over, where none is chosen for it.

    That is the one that all models state, if it agrees with what is known of the texts; otherwise there is none.
    """
    models = {origin.licence for origin in origins if origin.kind == "model"}
    (one,) = models if len(models) == 1 else (None,)
    return one if one and not any(conflicts(origins, one)) else None


def findings(origins: Sequence[Origin], chosen: str | None) -> list[str]:
    """Return what is to be known before publishing, a sentence each: conflicts first, then what is not known.

    Args:
        chosen: the licence of the model that was made from them; None if it has none yet.
    """
    said = [*conflicts(origins, chosen)]
    for one in dict.fromkeys(origin.licence for origin in origins if origin.terms is None):
        names = " and ".join(str(origin) for origin in origins if origin.licence == one)
        if one is None:
            said.append(
                f"No licence is stated by {names}, neither beside it nor in the hub's cache. Unknown does not mean "
                "free: ask before you publish."
            )
        else:
            said.append(f"The rules do not know the terms of `{one}`, of {names}: read them before you publish.")
    if chosen is None:
        said.append(
            "No licence is chosen for this model, so nobody knows whether they may use it. `--license` states one."
        )
    elif Terms.of(chosen) is None:
        said.append(f"The rules do not know `{chosen}`: whether it agrees with the others is for you to find out.")
    return said


def conflicts(origins: Sequence[Origin], chosen: str | None) -> Iterator[str]:
    """Yield each contradiction between licences that the rules see; of two like licences there is none."""
    mine = Terms.of(chosen) if chosen else None
    for origin in origins:
        terms, under = origin.terms, f"{_capital(origin)} is under `{origin.licence}`"
        if terms is None or (origin.licence == chosen and not terms.no_derivatives):
            continue
        if terms.no_derivatives:
            yield f"{under}, by which nothing made from it may be passed on; this model is made from it."
        if terms.non_commercial and not (mine and mine.non_commercial):
            yield f"{under}: no commercial use. {_but(chosen, 'does not say that')}"
        if terms.share_alike:
            yield f"{under}: what is made from it goes under the same licence. {_but(chosen, 'is another one')}"
    for one, other in combinations([origin for origin in origins if origin.terms], 2):
        if one.licence != other.licence and (_excludes(one.terms, other.terms) or _excludes(other.terms, one.terms)):
            yield (
                f"{_capital(one)} (`{one.licence}`) and {other} (`{other.licence}`) each ask for terms of their own: "
                "whether one licence can be both, only their texts say."
            )


def _excludes(one: Terms | None, other: Terms | None) -> bool:
    """Whether a licence that asks for itself has not what the other asks for."""
    if one is None or other is None or not one.share_alike:
        return False
    return other.share_alike or (other.non_commercial and not one.non_commercial)


def _but(chosen: str | None, contradicts: str) -> str:
    return f"This model's, `{chosen}`, {contradicts}." if chosen else "The licence that is chosen has to keep to that."


def _capital(origin: Origin) -> str:
    return f"T{str(origin)[1:]}"
