"""What is wrong with a recipe: all of it is reported, with line, reason and remedy."""

from __future__ import annotations

import pytest

from polygraft.errors import RecipeError
from polygraft.recipe.reading import parse_recipe

# What is wrong (old text, new text), and exactly what is said of it. Line numbers count in the changed base_recipe.
ONE_PROBLEM = {
    "unknown key, nearest": (
        ("lang: uk", "lagn: uk"),
        "line 5: text.lagn = uk: no such key; did you mean `lang`?",
    ),
    "unknown key, another section's": (
        ("adapt:\n", "adapt:\n  epochs: 3\n"),
        "line 11: adapt.epochs = 3: no such key here; valid as `adapt.budget.epochs`",
    ),
    "unknown key, nothing near": (
        ("transfer: {}", "transfer: {zzz: 1}"),
        "line 12: transfer.zzz = 1: no such key of `embeddings`; valid here: method, mode, ridge_lambda, alpha,",
    ),
    "missing section": (
        ("finetune:\n  budget:\n    epochs: 2\n", ""),
        "line 1: finetune: is missing (Stage 3: fine-tuning on the pairs)",
    ),
    "missing key, at the line of its section": (
        ("  budget: {steps: 100}", "  weight_decay: 0.1"),
        "line 10: adapt.budget: is missing (How long to train)",
    ),
    "two budget units": (
        ("{steps: 100}", "{steps: 100, tokens: 5}"),
        "line 11: adapt.budget: give exactly one of epochs, steps, tokens, minutes, flops; got steps and tokens",
    ),
    "no budget unit": (
        ("{steps: 100}", "{}"),
        "line 11: adapt.budget: give exactly one of epochs, steps, tokens, minutes, flops; got none",
    ),
    "budget without a unit": (
        ("{steps: 100}", "100"),
        "line 11: adapt.budget = 100: must be a section with keys of its own: epochs, steps, tokens, minutes, flops",
    ),
    "not a number": (("{steps: 100}", "{steps: many}"), "line 11: adapt.budget.steps = many: must be a whole number"),
    "a fraction of a step": (
        ("steps: 100", "steps: 1e-4"),
        "line 11: adapt.budget.steps = 1e-4: must be a whole number",
    ),
    "truth for a number": (("epochs: 2", "epochs: yes"), "line 15: finetune.budget.epochs = yes: must be a number"),
    "out of range": (("epochs: 2", "epochs: -2"), "line 15: finetune.budget.epochs = -2: must be greater than 0"),
    "infinite": (("epochs: 2", "epochs: .inf"), "line 15: finetune.budget.epochs = .inf: must be a finite number"),
    "choice": (
        ("transfer: {}", "transfer: {mode: repare}"),
        "line 12: transfer.mode = repare: must be repair or recentre or delta; did you mean",
    ),
    "adapter without its kind": (
        ("{steps: 100}", "{steps: 100}\n  adapter: {r: 8}"),
        "line 12: adapt.adapter: needs `type`, the kind that it is of",
    ),
    "adapter of no kind": (
        ("{steps: 100}", "{steps: 100}\n  adapter: {type: lra}"),
        "line 12: adapt.adapter.type = lra: must be lora or bottleneck; did you mean `lora`?",
    ),
    "key of the other kind of adapter": (
        ("{steps: 100}", "{steps: 100}\n  adapter: {type: lora, bottleneck_size: 8}"),
        "line 12: adapt.adapter.bottleneck_size = 8: no such key of `lora`; valid here: type, r, lora_alpha,"
        " lora_dropout, target_modules",
    ),
    "misspelt key of an adapter": (
        ("{steps: 100}", "{steps: 100}\n  adapter: {type: bottleneck, botleneck_size: 8}"),
        "line 12: adapt.adapter.botleneck_size = 8: no such key of `bottleneck`; did you mean `bottleneck_size`?",
    ),
    "value in an adapter": (
        ("{steps: 100}", "{steps: 100}\n  adapter: {type: lora, r: 0.5}"),
        "line 12: adapt.adapter.r = 0.5: must be a whole number",
    ),
    "a word for an adapter": (
        ("{steps: 100}", "{steps: 100}\n  adapter: lora"),
        "line 12: adapt.adapter = lora: must be a section with keys of its own: type, r, lora_alpha, lora_dropout,"
        " target_modules, bottleneck_size, non_linearity, normalize",
    ),
    "an adapter and a part": (
        ("{steps: 100}", "{steps: 100}\n  trainable: embeddings\n  adapter: {type: lora}"),
        "line 10: adapt: an adapter is trained alone: leave out `trainable: embeddings`, or `adapter`",
    ),
    "nothing to carry across": (
        ("transfer: {}", "transfer: {method: bottleneck}"),
        "line 12: transfer.method = bottleneck: needs `adapt.adapter`, which it carries across",
    ),
    "truth for a word": (
        ("lang: uk", "lang: True"),
        'line 5: text.lang = True: YAML reads this as true; put the word in quotes: "True"',
    ),
    "number for a word": (("name: demo", "name: 2024"), 'line 1: name = 2024: must be text; put it in quotes: "2024"'),
    "name is a path": (
        ("name: demo", "name: ../demo"),
        "line 1: name = ../demo: must be a folder name: letters, digits, `-`, `_` and `.`",
    ),
    "section left empty": (
        ("transfer: {}", "transfer:"),
        "line 12: transfer: is empty; write `null` to leave this section out, `{}` to have its defaults, or fill it in",
    ),
    "duplicate key": (
        ("  lang: uk\n", "  lang: uk\n  lang: fr\n"),
        "line 6: text.lang = fr: the same key is already on line 5; keep one of them",
    ),
    "seeds not a list": (
        ("name: demo", "name: demo\nseeds: 3"),
        "line 2: seeds = 3: must be a list, in brackets, with commas",
    ),
    "duplicate seeds": (
        ("name: demo", "name: demo\nseeds: [1, 2, 1]"),
        "line 2: seeds.2 = 1: the same seed twice would count one run as two",
    ),
    "no seeds": (("name: demo", "name: demo\nseeds: []"), "line 2: seeds = []: give at least one seed"),
    "negative seed": (
        ("name: demo", "name: demo\nseeds: [-1]"),
        "line 2: seeds.0 = -1: must be between 0 and 4294967295",
    ),
    "adapt not followed by transfer": (
        ("transfer: {}\n", ""),
        "line 10: adapt: its result is not used: add `transfer`, or leave `adapt` out",
    ),
    "adapt before recentre": (
        ("transfer: {}", "transfer: {mode: recentre}"),
        "line 10: adapt: its result is not used: transfer mode `recentre` takes nothing from the source",
    ),
    "adapt before none": (
        ("transfer: {}", "transfer: {method: none}"),
        "line 10: adapt: its result is not used: transfer method `none` takes nothing from the source",
    ),
    "a control of nothing": (
        ("adapt:\n  budget: {steps: 100}\ntransfer: {}", "transfer: {mode: recentre, control: random}"),
        "line 10: transfer: control: random stands in for what comes from the source, and mode: recentre takes nothing",
    ),
    "delta without adapt": (
        ("adapt:\n  budget: {steps: 100}\ntransfer: {}", "transfer: {mode: delta}"),
        "line 10: transfer.mode = delta: needs `adapt`: it moves what adaptation changed in the source",
    ),
    "no such method": (
        ("transfer: {}", "transfer: {method: encodr}"),
        "line 12: transfer.method = encodr: must be embeddings or bottleneck or encoder or distill or"
        " none; did you mean `encoder`?",
    ),
    "key of another method": (
        ("transfer: {}", "transfer: {method: encoder, alpha: 2}"),
        "line 12: transfer.alpha = 2: no such key of `encoder`; valid here: method, control, rows, calibration_tokens,",
    ),
    "distill without adapt": (
        ("adapt:\n  budget: {steps: 100}\ntransfer: {}", "transfer: {method: distill, budget: {steps: 1}}"),
        "line 10: transfer.method = distill: needs `adapt`: it moves what adaptation changed in the source",
    ),
    "nothing to warm up": (
        ("transfer: {}", "transfer: {}\nwarm_up: {budget: {steps: 9}}"),
        "line 13: warm_up: needs `transfer: {method: encoder}`, whose bridge it trains",
    ),
    "two budgets for adapt_target": (
        ("transfer: {}", "transfer: {}\nadaptation_budget: {flops: 2e9}\nadapt_target: {budget: {flops: 1e9}}"),
        "line 14: adapt_target.budget: leave it out: it is what the earlier stages leave of `adaptation_budget`;",
    ),
    "no budget for adapt_target": (
        ("transfer: {}", "transfer: {}\nadapt_target: {}"),
        "line 13: adapt_target.budget: is missing (How long to train): give it, or `adaptation_budget`, of which it is",
    ),
    "steps of two models": (
        ("transfer: {}", "transfer: {}\nadaptation_budget: {steps: 200}\nadapt_target: {}"),
        "line 13: adaptation_budget.steps = 200: steps of two models differ in cost, so that they have no sum: give"
        " flops, minutes or tokens",
    ),
    "two units of the common budget": (
        ("transfer: {}", "transfer: {}\nadaptation_budget: {flops: 2e9, tokens: 5}"),
        "line 13: adaptation_budget: give exactly one of epochs, steps, tokens, minutes, flops; got tokens and flops",
    ),
    "the common budget is spent beforehand": (
        (
            "adapt:\n  budget: {steps: 100}\ntransfer: {}",
            "adapt:\n  budget: {flops: 1e9}\ntransfer: {method: distill, budget: {flops: 1e9}}\n"
            "adaptation_budget: {flops: 2e9}\nadapt_target: {}",
        ),
        "line 13: adaptation_budget.flops = 2e9: is spent by adapt.budget (1e+09) and transfer.budget (1e+09) before"
        " `adapt_target`: raise it, or lower theirs",
    ),
    "the common budget is exceeded": (
        ("budget: {steps: 100}\ntransfer: {}", "budget: {tokens: 100}\ntransfer: {}\nadaptation_budget: {tokens: 99}"),
        "line 13: adaptation_budget.tokens = 99: is exceeded by adapt.budget (100): raise it, or lower theirs",
    ),
    "no test file": (
        ("  test_file: test.jsonl\n", ""),
        "line 6: pairs.test_file: is missing: `evaluate` needs pairs that training never sees",
    ),
    "verdict without arms": (
        ("name: demo", "name: demo\nverdict: {treatment: main, control: direct}"),
        "line 2: verdict.control = direct: no such arm; arms: main",
    ),
}


@pytest.mark.parametrize(("change", "expected"), ONE_PROBLEM.values(), ids=ONE_PROBLEM)
def test_one_problem_is_located_and_explained(write_recipe, change, expected, base_recipe, message_of):
    assert change[0] in base_recipe
    path = write_recipe(base_recipe.replace(change[0], change[1], 1))
    assert message_of(path).startswith(f"{path}: {expected}")


ARM_PROBLEMS = {
    "misspelt key in an arm": (
        ("learning_rate: 1e-3", "learning_rte: 1e-3"),
        ["line 19: arms.detour.adapt.learning_rte = 1e-3: no such key; did you mean `learning_rate`?"],
    ),
    "arm leaves the transfer out": (
        ("adapt: {learning_rate: 1e-3}", "transfer: null"),
        ["line 18: arms.detour.adapt: its result is not used: add `transfer`, or leave `adapt` out"],
    ),
    "arm takes the source away": (
        ("adapt: {learning_rate: 1e-3}", "source: null"),
        [
            "line 18: arms.detour.adapt: needs `source`, the masked language model that it trains",
            "line 18: arms.detour.transfer.mode = repair: needs `source`, the model to transfer from",
        ],
    ),
    "arm adds a stage without its budget": (
        ("adapt: {learning_rate: 1e-3}", "adapt_target: {mask_ratio: 0.3}"),
        ["line 19: arms.detour.adapt_target.budget: is missing (How long to train)"],
    ),
    "arm changes what all share": (
        ("adapt: {learning_rate: 1e-3}", "seeds: [4]"),
        ["line 19: arms.detour.seeds = [4]: is the same in all arms: set it at the top of the recipe"],
    ),
    "languages that cannot be told apart": (
        ("adapt: {learning_rate: 1e-3}", "adapt: {sampling_temperature: 3}\n    finetune: {sampling_temperature: 2}"),
        [
            "line 19: arms.detour.adapt.sampling_temperature = 3: needs a column of languages to balance: lang_column",
            "line 20: arms.detour.finetune.sampling_temperature = 2: needs a column of languages to balance",
        ],
    ),
    "arm is no section": (
        ("\n    adapt: {learning_rate: 1e-3}", " 3"),
        ["line 18: arms.detour = 3: must be a section with keys of its own: version, name, output_dir, seeds"],
    ),
    "arm names": (
        ("  plain: {", "  ../up: {}\n  Plain: {}\n  plain: {"),
        [
            "line 17: arms.../up: an arm's name must be a folder name: letters, digits, `-` and `_`",
            "line 19: arms.plain: differs from arm `Plain` in capitals only; some disks take them for one folder",
        ],
    ),
    "verdict's arm misspelt": (
        ("treatment: detour", "treatment: detuor"),
        ["line 20: verdict.treatment = detuor: no such arm; did you mean `detour`?"],
    ),
    "scores that no verdict compares by": (
        ("control: plain}", "control: plain, metrics: [rougel, loss_per_token, copy_rate, rouge1, rouge1]}"),
        [
            "line 20: verdict.metrics.0 = rougel: no such score to compare by; did you mean `rougeL`?",
            "line 20: verdict.metrics.1 = loss_per_token: decides the verdict anyway: leave it out",
            "line 20: verdict.metrics.2 = copy_rate: no such score to compare by; scores: chrf++, bleu, rouge1",
            "line 20: verdict.metrics.4 = rouge1: is named twice",
        ],
    ),
    "verdict of an arm against itself": (
        ("control: plain", "control: detour"),
        ["line 20: verdict.control = detour: must be another arm than the treatment"],
    ),
    "what all arms inherit is said once, where it is written": (
        ("  test_file: test.jsonl\n", ""),
        ["line 6: pairs.test_file: is missing: `evaluate` needs pairs that training never sees"],
    ),
}


@pytest.mark.parametrize(("change", "expected"), ARM_PROBLEMS.values(), ids=ARM_PROBLEMS)
def test_problems_of_arms_are_located_in_the_arm(write_recipe, change, expected, base_recipe, base_arms, message_of):
    assert change[0] in base_recipe + base_arms
    message = message_of(write_recipe((base_recipe + base_arms).replace(change[0], change[1], 1)))
    lines = message.split(": ", 1)[1].splitlines() if len(expected) == 1 else message.splitlines()[1:]
    assert len(lines) >= len(expected)
    for line in expected:
        assert any(found.strip().startswith(line) for found in lines), message


def test_a_mistake_of_the_base_is_not_repeated_for_every_arm(write_recipe, base_recipe, base_arms, message_of):
    message = message_of(write_recipe((base_recipe + base_arms).replace("epochs: 2", "epochs: -2")))
    assert message.count("must be greater than 0") == 1
    assert "arms" not in message


def test_all_problems_are_listed_at_once_in_the_order_of_the_file(write_recipe, base_recipe, message_of):
    text = (
        base_recipe.replace("name: demo", "name: a b")
        .replace("  lang: uk", "  lagn: uk")
        .replace("epochs: 2", "epochs: -2")
    )
    message = message_of(write_recipe(text), ("adapt.learning_rate=fast", "nonsense"))
    first, *rest = message.splitlines()
    assert first.endswith("r.yaml: 5 problems")
    starts = ["line 1: name", "line 5: text.lagn", "line 15: finetune.budget.epochs"]
    assert [line.strip().startswith(start) for line, start in zip(rest, starts, strict=False)] == [True] * 3
    assert "  --set adapt.learning_rate=fast: must be a number" in rest
    assert any(line.startswith("  --set nonsense: write key=value") for line in rest)


MISSING_NEEDS = {
    "adapt without source or text": (
        {"source": None, "text": None, "transfer": {"mode": "recentre"}},
        ["adapt: needs `source`", "adapt: needs `text`", "adapt: its result is not used"],
    ),
    "encoder without anything": (
        {"source": None, "adapt": None, "text": None, "transfer": {"method": "encoder"}},
        ["transfer.method = encoder: needs `source`", "transfer.method = encoder: needs `text`"],
    ),
    "repair without source": ({"source": None, "adapt": None}, ["transfer.mode = repair: needs `source`"]),
    "delta without source": (
        {"source": None, "adapt": None, "transfer": {"mode": "delta"}},
        ["transfer.mode = delta: needs `source`", "transfer.mode = delta: needs `adapt`"],
    ),
    "adapt_target without text": (
        {"text": None, "adapt": None, "adapt_target": {"budget": {"steps": 1}}},
        ["adapt_target: needs `text`"],
    ),
}


@pytest.mark.parametrize(("changes", "expected"), MISSING_NEEDS.values(), ids=MISSING_NEEDS)
def test_stages_need_their_inputs(changes, expected, base_data):
    with pytest.raises(RecipeError) as caught:
        parse_recipe(base_data | changes, "here")
    message = str(caught.value)
    assert message.startswith("here: ")
    assert all(part in message for part in expected)
    assert message.count("needs") + message.count("not used") == len(expected)


@pytest.mark.parametrize("section", [{"mode": "recentre"}, {"method": "none"}])
def test_what_takes_nothing_needs_no_source(section, base_data):
    data = base_data | {"adapt": None, "text": None, "transfer": section}
    del data["source"]
    assert parse_recipe(data, "here").source is None
