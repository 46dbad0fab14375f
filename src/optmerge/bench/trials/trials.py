"""Trials: one model of one line and expert set answers the questions of one split. And their results.

A trial's identity is a hash of everything that decides its result. So a run knows what is finished, and never
takes a record of other weights, tasks or versions for it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from optmerge.bench import records
from optmerge.bench.tasks import Split
from optmerge.errors import InputError
from optmerge.recipe import AUTO

Benchmark = Literal["capabilities", "modalities"]
Kind = Literal["base", "expert", "mixture", "merge", "routing"]
"""Kind of a model. `routing` sends each question to its own expert: tables have it, trials don't."""
TRIALS = "trials.jsonl"
"""File of a line's results, in the line's folder."""
PROTOCOL = 1
"""Changes whenever questions are chosen, asked or scored otherwise, beyond what a task's version says."""
DECIDING = ("optmerge", "torch", "transformers", "tokenizers", "peft")
"""Libraries whose versions are part of a trial's identity."""
BASE, MIXTURE, ROUTING, MERGED = "base", "mixture", "routing", "merged"
_DONE, _FAILED = "trial", "failed"


def label(kind: Kind, model: str) -> str:
    """A model's name in tables and lists: `base`, `expert:TASK`, `mixture`, `routing`, or a method's name."""
    return f"expert:{model}" if kind == "expert" else model


@dataclass(frozen=True)
class Trial:
    """What is asked of which model.

    Args:
        line: of models.
        kind: what the model is; never `routing`.
        model: the expert's task or modality, the merging method, or `base` or `mixture`.
        expert_set: number of the expert set; None for models that belong to none.
        split: of the questions.
        n: questions of each task.
        tasks: name → version.
        weights: role → SHA-256 of what the model is, or is merged from.
        scale: of the merge; `auto` where it was chosen from the deltas, None where nothing is merged or
            the method has no scale.
        default: whether the merge is the method's own default.
        parameters: of the method.
        protocol: `PROTOCOL`.
        benchmark: that the questions belong to.
    """

    line: str
    kind: Kind
    model: str
    expert_set: int | None
    split: Split
    n: int
    tasks: Mapping[str, int]
    weights: Mapping[str, str]
    scale: float | Literal["auto"] | None = None
    default: bool = False
    parameters: Mapping[str, Any] = field(default_factory=dict)
    protocol: int = PROTOCOL
    benchmark: Benchmark = "capabilities"

    @property
    def label(self) -> str:
        """The model's name in tables."""
        return label(self.kind, self.model)

    @property
    def name(self) -> str:
        """What is asked of which model, for people."""
        scale = "" if self.scale is None else " ×auto" if self.scale == AUTO else f" ×{self.scale:g}"
        where = self.line if self.expert_set is None else f"{self.line} set {self.expert_set}"
        return f"{where}: {self.label}{scale}, {self.split}"

    def identity(self, versions: Mapping[str, str] | None = None) -> str:
        """Hash of everything that decides the result.

        Args:
            versions: of the libraries; those in use by default.
        """
        versions = records.versions() if versions is None else versions
        deciding = {name: versions.get(name) for name in DECIDING}
        text = json.dumps([asdict(self), deciding], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class TaskScores:
    """One task's questions, answered.

    Args:
        scores: of each question by the task's first metric, in [0, 1].
        types: question type → [mean score, number of questions].
        metrics: metric → mean over the questions.
    """

    scores: NDArray[np.float64]
    types: Mapping[str, tuple[float, int]]
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class TrialResult:
    """Result of a trial.

    Args:
        trial: what was asked.
        tasks: task → scores; empty where the trial failed.
        cost: `answer_seconds`, and of a merge `merge_seconds` and `merge_peak_bytes`.
        merged: SHA-256 of the merged weights; None where nothing was merged.
        error: why the trial failed; None where it didn't.
        created: UTC time of the record, ISO 8601.
        versions: of the record.
    """

    trial: Trial
    tasks: Mapping[str, TaskScores]
    cost: Mapping[str, float]
    merged: str | None = None
    error: str | None = None
    created: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)


def write(result: TrialResult, folder: Path) -> Path:
    """Adds a record to `folder/LINE/trials.jsonl`; returns that file."""
    trial = asdict(result.trial)
    weights = trial.pop("weights") | ({MERGED: result.merged} if result.merged else {})
    metrics: dict[str, Any] = {task: _packed(scores) for task, scores in result.tasks.items()}
    record = records.new(
        kind=f"{trial.pop('benchmark')}/{_DONE if result.error is None else _FAILED}",
        config=trial,
        seeds={} if result.trial.expert_set is None else {"expert_set": result.trial.expert_set},
        metrics=metrics if result.error is None else {"error": result.error},
        cost=dict(result.cost),
        weights=weights,
    )
    file = folder / result.trial.line / TRIALS
    records.append(record, file)
    return file


def read_all(*folders: Path, benchmark: Benchmark = "capabilities") -> list[TrialResult]:
    """Every trial's result in the `trials.jsonl` files under some folders, oldest first.

    Args:
        folders: those that don't exist hold nothing.
        benchmark: whose trials; others are passed over.

    Raises:
        InputError: a line isn't a record, or is one of another schema; with file and line number.
    """
    results = []
    for file in sorted({file.resolve() for folder in folders for file in folder.rglob(TRIALS)}):
        for number, record in enumerate(records.read(file), 1):
            if record.kind in (f"{benchmark}/{_DONE}", f"{benchmark}/{_FAILED}"):
                results.append(_result(record, benchmark, records.place(file, number)))
    return sorted(results, key=lambda result: result.created)


def _result(record: records.Record, benchmark: Benchmark, where: str) -> TrialResult:
    weights = {role: value for role, value in record.weights.items() if role != MERGED}
    try:
        trial = Trial(**record.config, weights=weights, benchmark=benchmark)
        failed = record.kind.endswith(_FAILED)
        return TrialResult(
            trial=trial,
            tasks={} if failed else {task: _unpacked(record.metrics[task], trial.n) for task in trial.tasks},
            cost=record.cost,
            merged=record.weights.get(MERGED),
            error=record.metrics["error"] if failed else None,
            created=record.created,
            versions=record.versions,
        )
    except (TypeError, ValueError, KeyError) as problem:
        raise InputError(
            "this record of the benchmark is damaged",
            where=where,
            got=f"{type(problem).__name__}: {problem}",
            expected=f"a {record.kind} record as `optmerge bench run` writes it",
            hint="restore the file, or remove the line and run again",
        ) from problem


def _packed(task: TaskScores) -> dict[str, Any]:
    """Scores as bits where all are 0 or 1, in base 64; as numbers otherwise."""
    whole = np.isin(task.scores, (0.0, 1.0)).all()
    bits = base64.b64encode(np.packbits(task.scores.astype(bool)).tobytes()).decode()
    scores = {"bits": bits} if whole else {"values": task.scores.round(4).tolist()}
    means = {name: round(value, 6) for name, value in task.metrics.items()}
    types = {name: [round(mean, 6), n] for name, (mean, n) in task.types.items()}
    return {**scores, "types": types, "metrics": means}


def _unpacked(value: Mapping[str, Any], n: int) -> TaskScores:
    """Scores of at most `n` questions: a data set's split can be smaller than what was asked for."""
    types = {name: (float(mean), int(count)) for name, (mean, count) in value["types"].items()}
    asked = sum(count for _, count in types.values()) if types else n
    if not 0 < asked <= n:
        raise ValueError(f"expected between 1 and {n} questions, not {asked}")
    if "bits" in value:
        packed = np.frombuffer(base64.b64decode(value["bits"], validate=True), dtype=np.uint8)
        scores = np.unpackbits(packed)[:asked].astype(float)
    else:
        scores = np.asarray(value["values"], dtype=float)
    if scores.shape != (asked,) or not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError(f"expected {asked} scores in [0, 1]")
    return TaskScores(scores, types, {name: float(mean) for name, mean in value["metrics"].items()})
