"""The files of a run in types: each is as this version writes it, or reading it is an error that names it.

They say what the page and the model cards show; what else is in the files is not read.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from polygraft.data.files import RESULT_FORMAT, assert_known_format
from polygraft.errors import DataError
from polygraft.runs.costs import Cost
from polygraft.scoring import verdict
from polygraft.scoring.bootstrap import Score
from polygraft.scoring.comparison import Word
from polygraft.scoring.intervals import Estimate
from polygraft.scoring.metrics import SYSTEMS, metrics_of

VERDICT, DIAGNOSIS = verdict.FILE, "diagnose.json"
METRICS, SCORES, PLAN, DIAGNOSTICS = "metrics.jsonl", "scores.json", "plan.json", "diagnostics.json"
T = TypeVar("T")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, defer_build=True)


class _Numbered(_Part):
    """A file that carries a number: an older one is made again, a newer one refused before it is looked into."""

    format: Annotated[int, Field(ge=RESULT_FORMAT)]


class Result(_Part):
    """What a stage found, as far as it is shown: a stage that does not train has no losses."""

    steps: int | None = None
    tokens: int | None = None
    flops: float | None = None
    eval_loss: float | None = None
    eval_loss_first: float | None = None
    classes: int | None = None
    stopped_early: bool | None = None


class Record(_Numbered):
    """stage.json; `peak_memory_bytes` and `result` come when the stage is done."""

    stage: str = ""
    status: Literal["running", "done"]
    fingerprint: str
    settings: dict[str, Any]
    inputs: dict[str, str]
    data: list[dict[str, Any]]
    versions: dict[str, str]
    machine: dict[str, Any]
    git_commit: str | None
    started: str
    seconds: float
    peak_memory_bytes: int | None = None
    result: Result = Result()


class LoggedLine(_Part):
    """A line of metrics.jsonl: of training, or of an evaluation."""

    tokens: int
    loss: float | None = None
    eval_loss: float | None = None
    eval_masked_loss: float | None = None
    eval_chrf: Annotated[float | None, Field(alias="eval_chrf++")] = None


class Systems(_Part):
    """The scores of all that is scored, by language and metric."""

    model: dict[str, dict[str, Score]]
    lead: dict[str, dict[str, Score]]
    reference: dict[str, dict[str, Score]]


class ScoresFile(_Numbered):
    """scores.json."""

    documents: int
    signature: dict[str, str]
    systems: Systems


class PlanEntry(_Part):
    """A line of a plan; `rows` is None where a tensor is taken as a whole."""

    tensor: str
    token_class: str
    rows: int | None
    origin: str
    transform: str
    reason: str


class PlanFile(_Part):
    """plan.json."""

    entries: list[PlanEntry]
    tied: dict[str, str]
    figures: dict[str, int | float]
    warnings: list[str]


class Compared(_Part):
    """One comparison of verdict.json; a single document leaves the ends open, and too few seeds the p-values."""

    word: Word
    treatment: str
    control: str
    metric: str
    effect: float
    low: float | None
    high: float | None
    confidence: float
    margin: float | None
    p_value: float | None
    p_value_holm: float | None = None
    includes_seeds: bool
    better: Literal[-1, 1]


class ComparedInLanguage(Compared):
    """The pair in one of several languages or directions."""

    language: str
    documents: int


class LeadCompared(_Part):
    """Both arms against the lead baseline."""

    comparisons: list[Compared]


class VerdictFile(Compared, _Numbered):
    """verdict.json: the primary comparison, and all others."""

    sentence: str
    seeds: list[int]
    documents: int
    lead: LeadCompared
    comparisons: list[Compared]
    languages: list[ComparedInLanguage] = []
    cost: dict[str, Cost]


class Beside(_Part):
    """An arm beside another, by the nats that it is better."""

    name: str
    gain: Estimate
    whole: Estimate


class Judged(_Part):
    """What is to be done about an arm."""

    arm: str
    decision: Literal["go", "no-go", "open"]
    sentence: str
    against: list[Beside]
    carried: Estimate | None
    reached: Estimate | None
    direction: float | None


class Measured(_Part):
    """The target at one point of an arm, or of a placebo of one; map scores where a map was fitted."""

    arm: str
    placebo_of: str | None
    stage: str
    loss: Estimate
    whole: Estimate
    reliance: Estimate | None
    dead_rows: dict[str, int]
    dead_share: float
    map_r2: float | None = None
    csls_precision_at_1: float | None = None


class LayerMatch(_Part):
    """How alike the layers of source and target are, [source][target], and the source's layer of each target's."""

    source: str
    target: str
    similarity: list[list[float]]
    matched: list[int]


class DiagnosisFile(_Numbered):
    """diagnose.json; `placebos` says what each is."""

    documents: int
    seed: int
    targets: list[Measured]
    states: list[Measured]
    arms: list[Judged]
    layers: LayerMatch | None
    notes: list[str]
    placebos: dict[str, str]


def read(path: Path, kind: type[T]) -> T:
    """Read a JSON file that polygraft wrote.

    Raises:
        DataError: it is missing, or not as this version writes it.
    """
    content = _bytes(path)
    with contextlib.suppress(ValueError):
        if isinstance(whole := json.loads(content), dict):
            assert_known_format(path, whole)
    return _parsed(content, kind, path)


def read_lines(path: Path) -> list[LoggedLine]:
    """Read a metrics.jsonl; a stage that has logged nothing has none.

    Raises:
        DataError: a line is not as this version writes it.
    """
    if not path.exists():
        return []
    return [_parsed(line, LoggedLine, path, f", line {n}") for n, line in enumerate(_bytes(path).splitlines(), 1)]


def read_scores(path: Path) -> ScoresFile:
    """Read a scores.json.

    Raises:
        DataError: it is missing, broken, or without the scores that this version computes.
    """
    scores = read(path, ScoresFile)
    tables = [(set(metrics_of("model")), set(scores.signature))]
    for system in SYSTEMS:
        tables += [(set(metrics_of(system)), set(table)) for table in getattr(scores.systems, system).values()]
    for wanted, found in tables:
        if odd := sorted(wanted ^ found):
            raise _unlike(path, f"{odd[0]}: {'missing' if odd[0] in wanted else 'no such score'}")
    return scores


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unlike(path, error.strerror or type(error).__name__) from None


def _parsed(content: bytes, kind: type[T], path: Path, line: str = "") -> T:
    try:
        return TypeAdapter(kind).validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise _unlike(path, f"{place}: {first['msg']}" if place else first["msg"], line) from None


def _unlike(path: Path, reason: str, line: str = "") -> DataError:
    unwanted = path if path.name in (VERDICT, DIAGNOSIS) else path.parent
    return DataError(
        f"{path}{line}: not as this version of polygraft writes it ({reason}). Delete {unwanted} and run the recipe "
        "again."
    )
