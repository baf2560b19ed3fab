"""The section on what was measured before fine-tuning."""

from __future__ import annotations

import json


def test_page_shows_decisions_states_and_placebos(run, page, assert_well_formed):
    text = assert_well_formed(page[page.index('<section id="diagnosis"') : page.index('<section id="scores"')]).text
    found = json.loads((run / "diagnose.json").read_text(encoding="utf-8"))
    assert f"{found['arms'][0]['decision']} {found['arms'][0]['sentence']}" in text
    assert [state["stage"] for state in found["states"]] == ["transfer", "adapt_target"] * 2
    for state, after in zip([*found["targets"], *found["states"]],
                            ["as it was", "transfer", "denoising", "transfer", "denoising"], strict=True):  # fmt: skip
        loss = state["loss"]
        assert f"{state['arm']} {after} {loss['value']:.3f} {loss['low']:.3f} to {loss['high']:.3f} " in text
    assert f"+random {found['placebos']['random']}" in text
    assert ">detour+random</text>" in page  # a row of the plot


def test_a_placebo_is_what_the_diagnosis_calls_one(copy, change, text_of):
    """Not what has a `+` in its name."""
    found = json.loads((copy / "diagnose.json").read_text(encoding="utf-8"))
    dim = '<tr class="dim"><th scope="row">'
    states = [{**state, "placebo_of": None} for state in found["states"]]
    text_of(copy)
    assert dim in (copy / "report.html").read_text(encoding="utf-8")
    change(copy / "diagnose.json", states=states)
    text_of(copy)
    assert f"{dim}detour+random" not in (copy / "report.html").read_text(encoding="utf-8")
