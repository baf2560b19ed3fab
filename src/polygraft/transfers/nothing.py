"""No transfer: every value of the target stays, as a control that goes through the same stage."""

from __future__ import annotations

from dataclasses import replace

from polygraft.models.checkpoints import tied_names
from polygraft.transfers.contract import Changes, Inputs
from polygraft.transfers.plan import Plan, keep_whole


def plan(inputs: Inputs) -> Plan:
    """Keep every tensor."""
    tied = tied_names(inputs.target)
    entries = [replace(e, reason="control: nothing is transferred") for e in keep_whole(inputs.target, "", tied)]
    return Plan(entries=entries, tied=tied, tensors=inputs.target.state_dict())


def fit(plan: Plan, inputs: Inputs) -> None:
    """Nothing is fitted."""


def apply(plan: Plan, fitted: None, inputs: Inputs) -> Changes:
    """Return the target, unchanged."""
    return Changes(inputs.target)


def diagnose(plan: Plan, fitted: None, inputs: Inputs, changes: Changes) -> dict[str, float]:
    """Nothing changed, and nothing was measured."""
    return {}
