"""Go or no-go, in plain words, from losses on held-out text: before fine-tuning is paid for.

A transfer earns a go if the target that it leads to restores removed spans better than the arm that adapts the target
directly, and better than each of its placebos: all of these at once, so that no correction for their number is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from polygraft.diagnosis.held_out import Losses
from polygraft.recipe.placebos import placebo_name
from polygraft.scoring.intervals import CONFIDENCE, Estimate, Ratio
from polygraft.settings import Placebo

Reading = Literal["better", "worse", "not told apart"]
Decision = Literal["go", "no-go", "open"]
MIN_RELIANCE = 0.05  # nats per token: below it, a target does not read its source


@dataclass(frozen=True, kw_only=True)
class Against:
    """An arm beside another, or a `placebo` of its own: by how many nats it is better, and what that reads as.

    `gain` and `reading` are of removed tokens, what decides; `whole` is per token of the whole text, copied ones
    included. What an encoder is good for shows there: removed tokens follow from what the decoder has written so far.
    """

    name: str
    placebo: Placebo | None
    gain: Estimate
    reading: Reading
    whole: Estimate


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What is to be done about an arm, in one sentence; `against` the direct arm first, if there is one.

    `carried` is KCF: of direct adaptation's gain on the held-out text, the share that the transfer alone has; `reached`
    the same of the arm as it goes into fine-tuning. `direction` is the cosine of what the transfer changes in the
    encoder's last states with what direct adaptation changes there.
    """

    arm: str
    decision: Decision
    sentence: str
    against: tuple[Against, ...]
    carried: Estimate | None
    reached: Estimate | None
    direction: float | None = None


def compare(name: str, mine: Losses, other: Losses, placebo: Placebo | None = None) -> Against:
    """Compare two checkpoints on the same documents."""
    gain = other.per_removed_token().minus(mine.per_removed_token()).estimate()
    whole = other.per_token().minus(mine.per_token()).estimate()
    return Against(name=name, placebo=placebo, gain=gain, reading=_reading(gain), whole=whole)


def _reading(gain: Estimate) -> Reading:
    if gain.low is not None and gain.low > 0:
        return "better"
    return "worse" if gain.high is not None and gain.high < 0 else "not told apart"


def share_of_gain(before: Losses, mine: Losses, direct: Losses) -> Estimate | None:
    """Return (L_before - L_mine) / (L_before - L_direct), with percentiles of the paired draws as its interval.

    None where direct adaptation gains nothing: there is nothing to have a share of.
    """
    top, bottom = _gain(before, mine), _gain(before, direct)
    estimate = bottom.estimate()
    if estimate.low is None or estimate.low <= 0:
        return None
    draws_R = _mean_draws(top) / _mean_draws(bottom)
    low, high = np.quantile(draws_R, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(top.value / bottom.value, float(low), float(high))


def _gain(before: Losses, after: Losses) -> Ratio:
    return before.per_removed_token().minus(after.per_removed_token())


def _mean_draws(one: Ratio) -> np.ndarray:
    return np.mean(list(one.draws.values()), axis=0)


def judge(
    arm: str,
    states: Mapping[str, Losses],
    direct: tuple[str, Mapping[str, Losses]] | None,
    placebos: Mapping[Placebo, Losses],
) -> Judgement:
    """Decide about an arm.

    Args:
        states: the target as it was ("target"), and after each stage of the arm; the last goes into fine-tuning.
        direct: name and states of the arm that adapts the target without a transfer.
        placebos: what each leads to.
    """
    *_, final = states.values()
    against = [compare(placebo_name(arm, kind), final, losses, kind) for kind, losses in placebos.items()]
    carried = reached = None
    if direct is not None:
        name, (before, *_, adapted) = direct[0], direct[1].values()
        against.insert(0, compare(name, final, adapted))
        carried, reached = (share_of_gain(before, mine, adapted) for mine in (states["transfer"], final))
    decision, sentence = _decide(arm, final, against, direct is not None)
    copies = [one for one in against if one.reading != "better" and _reading(one.whole) == "better"]
    if copies:
        names = ", ".join(f"`{one.name}` by {_size(one.whole)}" for one in copies)
        sentence += f" On the whole text, copied tokens included, it is ahead of {names} nats per token."
    return Judgement(
        arm=arm, decision=decision, sentence=sentence, against=tuple(against), carried=carried, reached=reached
    )


def _decide(arm: str, final: Losses, against: list[Against], has_direct: bool) -> tuple[Decision, str]:
    reliance = final.reliance()
    read = None if reliance is None else reliance.estimate()
    if read is not None and read.high is not None and read.high < MIN_RELIANCE:
        return "no-go", (
            f"No-go: after `{arm}` the target hardly reads its source: another document's costs it "
            f"{read.text(signed=True, marks=(0.0, MIN_RELIANCE))} nats per token, less than {MIN_RELIANCE}. What is in "
            "its encoder cannot show. Train the target further, or take another."
        )
    direct, rivals = (against[0] if has_direct else None), against[1 if has_direct else 0 :]
    if direct is not None and direct.reading == "worse":
        return "no-go", (
            f"No-go: `{arm}` is worse on held-out text than `{direct.name}` by {_size(direct.gain)} nats per removed "
            f"token. Fine-tune `{direct.name}`."
        )
    if direct is not None and direct.reading == "not told apart":
        return "open", (
            f"Open: `{arm}` and `{direct.name}` are not told apart on held-out text ({direct.gain.text(signed=True)} "
            f"nats per removed token). Without a reason of another kind, fine-tune `{direct.name}`, which is simpler."
        )
    unbeaten = [rival for rival in rivals if rival.reading != "better"]
    ahead = "" if direct is None else f"better than `{direct.name}` by {_size(direct.gain)} nats per removed token"
    if direct is not None and [rival.placebo for rival in unbeaten] == ["untuned"]:
        rival = unbeaten[0]
        return "go", (
            f"Go, but nothing shows that adapting the source helps: `{arm}` is {ahead}, and {_beside(rival)}, which is "
            f"from the source as it was.{_beaten(rivals)}"
        )
    if unbeaten:
        but = f"it is {ahead}, but " if ahead else "it is "
        return "open", (
            f"Open: nothing shows that `{arm}` helps by what the source knows: {but}"
            f"{', '.join(_beside(rival) for rival in unbeaten)}."
        )
    if not rivals and direct is None:
        return "open", f"Open: there is nothing to compare `{arm}` with. Add an arm that adapts the target directly."
    if direct is None:
        return "open", f"Open: no arm adapts the target directly. Add one.{_beaten(rivals)}"
    if not rivals:
        return "open", f"Open: `{arm}` is {ahead}, but no placebo says what that comes from."
    return "go", f"Go: on held-out text `{arm}` is {ahead}.{_beaten(rivals)}"


def _beside(rival: Against) -> str:
    if rival.reading == "worse":
        return f"worse than `{rival.name}` by {_size(rival.gain)}"
    return f"not told apart from `{rival.name}` ({rival.gain.text(signed=True)})"


def _beaten(rivals: list[Against]) -> str:
    beaten = [f"`{rival.name}` by {_size(rival.gain)}" for rival in rivals if rival.reading == "better"]
    return f" It beats {', '.join(beaten)}." if beaten else ""


def _size(gain: Estimate) -> str:
    turned = gain if gain.value >= 0 else Estimate(-gain.value, _minus(gain.high), _minus(gain.low))
    return turned.text()


def _minus(value: float | None) -> float | None:
    return None if value is None else -value
