"""An option that takes one value is refused when it is given twice: every such option of every verb."""

from __future__ import annotations

import pytest
import typer

from polygraft.cli import app

VERBS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
OPTIONS = [(verb, option) for verb, command in VERBS.items() for option in command.params if option.opts[0][:2] == "--"]
FILES = {"--train-file", "--validation-file", "--test-file"}
LISTS = FILES | {"--set", "--text-column", "--language", "--source", "--target", "--lang", "--adapter.target-modules"}
LISTS |= {"--input-file", "--general.train-file", "--general.validation-file", "--pairs", "--text", "--report-to"}
LISTS |= {"--against", "--score-column", "--lower-is-better", "--include", "--allowed-host"}
LISTS |= {"--model"}  # of serve; of other verbs it is single
SINGLE = [(verb, name) for verb, o in OPTIONS if not o.multiple and not o.is_flag for name in o.opts]


@pytest.mark.parametrize("verb", VERBS)
def test_refused_twice(verb):
    for option in [name for one, name in SINGLE if one == verb]:
        with pytest.raises(Exception, match=r"is given twice, and takes one value\. Give") as caught:
            VERBS[verb].make_context(verb, [option, "first", option, "last"])
        assert option in caught.value.param.opts


def test_refused_twice_with_a_message(invoke):
    result = invoke("adapt", "--adapter.r", "4", "--steps", "3", "--adapter.r", "8")
    assert result.exit_code == 2
    said = " ".join(result.output.replace("│", " ").split())
    assert "'--adapter.r': is given twice, and takes one value. Give it once." in said


def test_the_list_of_options_is_not_empty_and_lists_are_what_they_were_meant_to_be():
    assert len(SINGLE) > 150
    assert {option.opts[0] for _, option in OPTIONS if option.multiple} == LISTS
    assert {o.opts[0] for _, o in OPTIONS if o.opts[0] in FILES and not o.multiple} == set()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--set", "weight_decay=0.1", "--set", "weight_decay=0.2"],
        ["--learning-rate", "1e-4", "--set", "learning_rate=1e-3"],
        ["--lang", "uk", "--set", "lang=fr"],
        ["--lang", "uk", "--set", "text.lang=fr"],
        ["--epochs", "1", "--set", "budget.epochs=2"],
        ["--adapter.type", "lora", "--set", "adapter={type: lora}"],
        ["--set", "budget={steps: 3}", "--set", "budget.steps=3"],
    ],
)
def test_a_setting_is_refused_twice(arguments, invoke):
    required = ["--model", "m", "--train-file", "t.txt", "--output-dir", "o"]
    result = invoke("adapt", *required, *arguments)
    assert result.exit_code == 2
    assert "is given twice. Give it once." in result.output


def test_a_setting_of_a_recipe_is_refused_twice(write_recipe, base_recipe, message_of):
    path = write_recipe(base_recipe)
    found = message_of(path, ("adapt.learning_rate=1e-4", "seeds=[1]", "adapt.learning_rate=1e-3"))
    assert "--set adapt.learning_rate=1e-3: adapt.learning_rate is given twice; give it once" in found


def test_words_that_a_shell_makes_of_a_pattern(invoke):
    """Unquoted, train.{en,uk} and data/*.jsonl are several words, of which an option takes the first."""
    required = ["--model", "m", "--output-dir", "o"]
    result = invoke("finetune", *required, "--train-file", "train.en", "train.uk")
    assert result.exit_code == 2
    said = " ".join(result.output.replace("│", " ").split())
    assert "extra argument" in said
    assert "An option takes one value at a time; put names with * or {…} in quotes." in said
