"""The needs of every stage of an arm: what it trains, on how much text, with how much of the vocabulary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from transformers import PreTrainedConfig

from polygraft import machine
from polygraft.checks.data import Beginnings
from polygraft.checks.memory import PassCost, measure_pass
from polygraft.checks.models import Opened
from polygraft.checks.needs import Evaluated, Lengths, Need, training_need
from polygraft.checks.other_needs import decoding_seconds, evaluate_need, language_need, reading_need, transfer_need
from polygraft.checks.scan import Beginning
from polygraft.checks.speed import Probe, baseline_bytes, probe_machine
from polygraft.data.dataset import SPECIAL_TOKENS, tokenize
from polygraft.data.notices import Unwritable
from polygraft.data.sources import Names, label
from polygraft.errors import PolygraftError
from polygraft.machine import Arithmetic
from polygraft.models.trimming import needed_ids
from polygraft.objectives import TextTask
from polygraft.objectives.task import BatchShape
from polygraft.recipe import Recipe
from polygraft.recipe.placebos import placebo_name, placebos
from polygraft.recipe.stages import ADAPTATION
from polygraft.runs.costs import target_section
from polygraft.scoring.forgetting import STATES
from polygraft.settings import Decoding, Diagnose, Evaluate, Finetune, Forgetting, PairData, TextData, Training
from polygraft.transfers.methods import Method

CHANGING = ("transfer", "warm_up", "adapt_target")  # stages after which the target is another one


class Stages:
    """Estimates stages; what arms have in common is read, counted and measured once.

    `available_bytes` is the memory that batches are proposed for, by default what is free on this machine; `beginnings`
    are those of files that have been read before.
    """

    def __init__(
        self,
        opened: Mapping[str, Opened],
        available_bytes: int | None = None,
        beginnings: Beginnings | None = None,
    ) -> None:
        self.opened, self.beginnings = dict(opened), dict(beginnings or {})
        self.available_bytes = available_bytes or machine.available_bytes()
        self.baseline_bytes = baseline_bytes()
        self.cache: dict[Any, Any] = {}
        self.probed: dict[str, str] = {}  # a graft is as fast as its target
        self.warnings: list[str] = []

    def of_arm(self, arm: str, recipe: Recipe) -> tuple[Need, ...]:
        """Return the needs of an arm's stages, in order; where nothing will be left for one there is a warning."""
        needs, target = self.adaptation(arm, recipe)
        needs.append(self.finetune(recipe.finetune, target, recipe.pairs))
        needs.append(self.evaluate(recipe.evaluate, target, recipe.pairs))
        if recipe.forgetting:
            adapts = any(need.stage in ADAPTATION for need in needs)
            needs.append(self.forgetting(recipe.forgetting, target, len(STATES) if adapts else len(STATES) - 1))
        return tuple(needs)

    def of_diagnosis(self, arms: Mapping[str, Recipe], settings: Diagnose) -> dict[str, tuple[Need, ...]]:
        """Return what a diagnosis takes beside the arms' stages: measuring, and placebos with stages of their own."""
        found: dict[str, tuple[Need, ...]] = {}
        for arm, recipe in arms.items():
            if (text := recipe.text) is None:
                continue
            found[arm] = (self.measuring(*self.adaptation(arm, recipe), text, settings),)
            for kind, placebo in placebos(recipe, settings.placebos):
                needs, target = self.adaptation(placebo_name(arm, kind), placebo)
                own = [need for need in needs if need.stage in CHANGING]  # what comes before is the arm's
                found[placebo_name(arm, kind)] = (*own, self.measuring(needs, target, text, settings))
        return found

    def measuring(self, needs: Sequence[Need], target: str, text: TextData, settings: Diagnose) -> Need:
        """Return what measuring the states of an arm's target takes: as it was, and after each stage."""
        (ids,), rows = self.tokens(target, text.train_file, (text.text_column,))
        documents = min(settings.max_samples, round(self.split(text, (text.text_column,), rows)[1]))
        lengths = Lengths([len(one) + SPECIAL_TOKENS for one in ids], None, documents)
        states = 1 + sum(need.stage in CHANGING for need in needs)
        # its own noisy source, and that of another document
        return reading_need("diagnose", self.opened[target].config, lengths, 2, self.probe(target), states)

    def adaptation(self, arm: str, recipe: Recipe) -> tuple[list[Need], str]:
        """Return the needs of the stages before fine-tuning, and the name of the model that they end with."""
        needs, target = self.before_target(recipe)
        try:
            section = target_section(recipe, {need.stage: need.cost for need in needs}, f"arm {arm}, by estimate")
        except PolygraftError as error:
            self.warnings += [said for said in [str(error)] if said not in self.warnings]  # a diagnosis asks again
            section = None
        if section and recipe.text:
            need = self.text_stage("adapt_target", section, target, recipe.text)
            shared = recipe.adaptation_budget is not None
            needs.append(replace(need, budget=f"{need.budget} (what is left)") if shared else need)
        return needs, target

    def before_target(self, recipe: Recipe) -> tuple[list[Need], str]:
        """Return the needs of the stages before `adapt_target`, and the name of the model that they end with."""
        source, target, needs = recipe.source, recipe.target, []
        if recipe.add_languages:
            needs.append(language_need(self.opened[target].config, self.probe(target)))
        if recipe.adapt and source and recipe.text:
            needs.append(self.text_stage("adapt", recipe.adapt, source, recipe.text))
        if recipe.transfer:
            host, needed = target, recipe.transfer.needs
            sources = [self.opened[source].config] if source and needed.source else []
            sources *= needed.source_before + needed.source_after
            if sources and source:
                target = self.result(recipe.transfer, source, target)
            configs = self.opened[host].config, self.opened[target].config
            needs.append(transfer_need(recipe.transfer, sources, *configs, self.probe(host)))
        if recipe.warm_up and recipe.text:
            needs.append(self.text_stage("warm_up", recipe.warm_up, target, recipe.text))
        return needs, target

    def result(self, method: Method, source: str, target: str) -> str:
        """Name what a transfer makes of two models; one of another shape is added to the opened ones."""
        encoder, decoder = self.opened[source], self.opened[target]
        positions = min(encoder.report.max_positions, decoder.report.max_positions)
        config = method.result_config(encoder.config, decoder.config, positions)
        if config is decoder.config:
            return target
        name = f"{source} before {target}"
        self.opened[name] = Opened(config, decoder.tokenizer, replace(decoder.report, max_positions=positions))
        self.probed[name] = target
        return name

    def probe(self, model: str, arithmetic: Arithmetic = "fp32") -> Probe:
        model = self.probed.get(model, model)
        key = ("probe", model, arithmetic)
        if key not in self.cache:
            found = probe_machine(self.opened[model].config, arithmetic, self.baseline_bytes)
            self.cache[key] = replace(found, available_bytes=self.available_bytes)
        return self.cache[key]

    def text_stage(self, stage: str, settings: TextTask, model: str, text: TextData) -> Need:
        key = (stage, settings.model_dump_json(), model, text.model_dump_json())
        if key not in self.cache:
            columns = (text.text_column,)
            (ids,), documents = self.tokens(model, text.train_file, columns)
            room = min(settings.max_length_tokens, self.opened[model].report.max_positions) - SPECIAL_TOKENS
            pieces = [min(room, len(d) - start) + SPECIAL_TOKENS for d in ids for start in range(0, len(d), room)]
            trained, held_out = self.split(text, columns, documents)
            per_document = len(pieces) / len(ids)
            lengths = Lengths(pieces, None, round(trained * per_document))
            kept = self.rows_kept(settings.trim_vocabulary, model, [ids])
            evaluated = Evaluated(held_out * per_document)
            self.cache[key] = self.training(stage, settings, model, kept, lengths, evaluated)
        return self.cache[key]

    def finetune(self, settings: Finetune, model: str, pairs: PairData) -> Need:
        key = ("finetune", settings.model_dump_json(), model, pairs.model_dump_json())
        if key not in self.cache:
            columns = (pairs.text_column, pairs.summary_column)
            ids, documents = self.tokens(model, pairs.train_file or (), columns)
            most = (settings.max_source_length_tokens, settings.max_target_length_tokens)
            source, target = (self.cut(model, column, limit) for column, limit in zip(ids, most, strict=True))
            trained, held_out = self.split(pairs, columns, documents)
            lengths = Lengths(source, target, min(trained, pairs.max_train_samples or trained))
            kept = self.rows_kept(settings.trim_vocabulary, model, ids)
            evaluated = Evaluated(
                held_out, self.sample_seconds(settings, model, replace(lengths, documents=round(held_out)))
            )
            self.cache[key] = self.training("finetune", settings, model, kept, lengths, evaluated)
        return self.cache[key]

    def split(self, data: TextData | PairData, columns: tuple[str, ...], rows: int) -> tuple[int, float]:
        """Return how many of the rows are trained on, and the rows as long as these that an evaluation reads."""
        if not data.validation_file:
            held_out = max(1, round(rows * data.validation_split))
            return max(1, rows - held_out), held_out
        trained = self.beginning(data.train_file or (), columns)
        other = self.beginning(data.validation_file, columns)
        return rows, rows * sum(other.characters) / sum(trained.characters)

    def sample_seconds(self, settings: Finetune, model: str, lengths: Lengths) -> float:
        """Seconds that decoding the sample takes by which the best checkpoint is told."""
        if settings.metric_for_best_model == "loss":
            return 0.0
        count = min(settings.generation_max_samples, lengths.documents)
        decoding = Decoding(num_beams=settings.generation_num_beams, max_new_tokens=settings.generation_max_length - 1)
        config = self.opened[model].config
        return decoding_seconds(decoding, config, replace(lengths, documents=count), self.probe(model))

    def evaluate(self, settings: Evaluate, model: str, pairs: PairData) -> Need:
        columns = (pairs.text_column, pairs.summary_column)
        ids, documents = self.tokens(model, pairs.test_file or pairs.train_file or (), columns)
        source = self.cut(model, ids[0], settings.max_source_length_tokens)
        target = self.cut(model, ids[1], self.opened[model].report.max_positions)
        lengths = Lengths(source, target, min(documents, settings.max_samples or documents))
        return evaluate_need(settings, self.opened[model].config, lengths, self.probe(model))

    def forgetting(self, settings: Forgetting, model: str, states: int) -> Need:
        key = ("forgetting", settings.model_dump_json(), model)
        if key not in self.cache:
            (ids,), _ = self.tokens(model, settings.test_file, (settings.text_column,))
            languages = self.beginning(settings.test_file, (settings.text_column,)).languages.values()
            documents = sum(min(rows, settings.max_samples) for rows in languages)
            self.cache[key] = Lengths([len(one) + SPECIAL_TOKENS for one in ids], None, documents)
        return reading_need("forgetting", self.opened[model].config, self.cache[key], 1, self.probe(model), states)

    def training(
        self, stage: str, settings: Training, model: str, kept: int | None, lengths: Lengths, evaluated: Evaluated
    ) -> Need:
        config: PreTrainedConfig = self.opened[model].config
        probe = self.probe(model, machine.arithmetic(settings.precision))
        return training_need(stage, settings, config, kept, lengths, probe, evaluated, self.measure)

    def measure(
        self, config: PreTrainedConfig, shape: BatchShape, arithmetic: Arithmetic, accumulated: int, settings: Training
    ) -> PassCost:
        """Count a pass as memory.py does; of stages that differ only in what it does not depend on, once."""
        given = settings.model_dump_json(include={"adapter", "trainable", "gradient_checkpointing"})
        key = (config.to_json_string(), shape, arithmetic, accumulated > 1, type(settings), given)
        if key not in self.cache:
            self.cache[key] = measure_pass(config, shape, arithmetic, accumulated, settings)
        return self.cache[key]

    def cut(self, model: str, column: list[list[int]], limit: int) -> list[int]:
        most = min(limit, self.opened[model].report.max_positions)
        return [min(most, len(ids) + SPECIAL_TOKENS) for ids in column]

    def beginning(self, file: Names, columns: tuple[str, ...]) -> Beginning:
        """Return the first rows of files: those that were kept when the data was examined, or read for this."""
        key = (file, columns)
        if key not in self.beginnings:
            self.beginnings[key] = Beginning.of(file, columns)
        return self.beginnings[key]

    def tokens(self, model: str, file: Names, columns: tuple[str, ...]) -> tuple[list[list[list[int]]], int]:
        """Return the token ids of each column of the first rows, and the number of all rows."""
        beginning = self.beginning(file, columns)
        return [self.column_tokens(model, file, columns, place) for place in range(len(columns))], beginning.rows

    def column_tokens(self, model: str, file: Names, columns: tuple[str, ...], place: int) -> list[list[int]]:
        """Return the token ids of one column of the first rows."""
        key = ("tokens", model, file, columns[place])
        if key not in self.cache:
            tokenizer, texts = self.opened[model].tokenizer, self.beginning(file, columns).columns[place]
            self.cache[key] = tokenize(tokenizer, texts)
            unwritable = Unwritable(tokenizer)
            unwritable.add(texts, self.cache[key])
            self.warnings += filter(None, [unwritable.warning(label(file), columns[place], model)])
        return self.cache[key]

    def rows_kept(self, trimmed: bool, model: str, columns: list[list[list[int]]]) -> int | None:
        if not trimmed:
            return None
        used = np.unique(np.fromiter((i for column in columns for ids in column for i in ids), dtype=np.int64))
        return len(np.union1d(used, needed_ids(self.opened[model].tokenizer, [])))
