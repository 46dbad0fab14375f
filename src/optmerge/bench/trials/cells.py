"""Cells: one model of one line and expert set that answers the questions of one split, and what came out.

A cell's identity is a hash of everything that decides its result, so a run knows what is finished, and never
takes records of other weights, tasks or versions for it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optmerge.bench import records
from optmerge.bench.tasks import Split
from optmerge.errors import InputError

CAPABILITIES = "capabilities"
"""Kind of the records, before what they hold: `/cell`, or `/failed`."""
_CELL, _FAILED = "cell", "failed"
PROTOCOL = 1
"""Changes whenever questions are chosen, asked or scored otherwise, beyond what a task's version says."""
DECIDING = ("optmerge", "torch", "transformers", "tokenizers", "peft")
"""Libraries whose versions are part of a cell's identity."""
BASE, MIXTURE, ROUTING, EXPERT = "base", "mixture", "routing", "expert:"
MERGED = "merged"


@dataclass(frozen=True)
class Cell:
    """What is asked of which model.

    Args:
        line: of models.
        model: `base`, `expert:TASK`, `mixture`, or a method's name.
        expert_set: number of the expert set; None for models that belong to none.
        split: of the questions.
        n: questions of each task.
        tasks: name → version.
        weights: role → SHA-256 of what the model is, or is merged from.
        scale: of the merge; None where nothing is merged.
        default: whether that is the method's own default.
        parameters: of the method.
        protocol: `PROTOCOL`.
    """

    line: str
    model: str
    expert_set: int | None
    split: Split
    n: int
    tasks: Mapping[str, int]
    weights: Mapping[str, str]
    scale: float | None = None
    default: bool = False
    parameters: Mapping[str, Any] = field(default_factory=dict)
    protocol: int = PROTOCOL

    @property
    def merged(self) -> bool:
        """Whether the model comes out of a merge."""
        return self.scale is not None

    @property
    def name(self) -> str:
        """For people: what is asked of whom."""
        scale = "" if self.scale is None else f" ×{self.scale:g}"
        where = self.line if self.expert_set is None else f"{self.line} set {self.expert_set}"
        return f"{where}: {self.model}{scale}, {self.split}"

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
class Result:
    """What came out of a cell.

    Args:
        cell: what was asked.
        tasks: task → scores; empty where the cell failed.
        cost: `answer_seconds`, and of a merge `merge_seconds` and `merge_peak_bytes`.
        merged: SHA-256 of the merged weights; None where nothing was merged.
        error: why it failed; None where it didn't.
        created: UTC time, ISO 8601; of the record.
        versions: of the record.
    """

    cell: Cell
    tasks: Mapping[str, TaskScores]
    cost: Mapping[str, float]
    merged: str | None = None
    error: str | None = None
    created: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)


def write(result: Result, folder: Path, kind: str = CAPABILITIES) -> Path:
    """Adds a record to `folder/LINE`; nothing there is ever changed."""
    cell = asdict(result.cell)
    weights = cell.pop("weights") | ({MERGED: result.merged} if result.merged else {})
    metrics: dict[str, Any] = {task: _packed(scores) for task, scores in result.tasks.items()}
    record = records.new(
        kind=f"{kind}/{_CELL if result.error is None else _FAILED}",
        config=cell,
        seeds={} if result.cell.expert_set is None else {"expert_set": result.cell.expert_set},
        metrics=metrics if result.error is None else {"error": result.error},
        cost=dict(result.cost),
        weights=weights,
    )
    return records.write(record, folder / result.cell.line)


def read_all(folder: Path, kind: str = CAPABILITIES) -> list[Result]:
    """Every cell's result under a folder, oldest first; other kinds of records are passed over.

    Raises:
        InputError: a file isn't a record, or is one of another schema; with its path.
    """
    results = [_read(path, kind) for path in sorted(folder.rglob("*.json"))]
    return sorted((each for each in results if each), key=lambda result: result.created)


def _read(path: Path, kind: str) -> Result | None:
    record = records.read(path)
    if record.kind not in (f"{kind}/{_CELL}", f"{kind}/{_FAILED}"):
        return None
    weights = {role: value for role, value in record.weights.items() if role != MERGED}
    try:
        cell = Cell(**record.config, weights=weights)
        failed = record.kind.endswith(_FAILED)
        return Result(
            cell=cell,
            tasks={} if failed else {task: _unpacked(record.metrics[task], cell.n) for task in cell.tasks},
            cost=record.cost,
            merged=record.weights.get(MERGED),
            error=record.metrics["error"] if failed else None,
            created=record.created,
            versions=record.versions,
        )
    except (TypeError, ValueError, KeyError) as problem:
        raise InputError(
            "this record of the benchmark is damaged",
            where=path,
            got=f"{type(problem).__name__}: {problem}",
            expected=f"a {record.kind} record as `optmerge bench run` writes it",
            hint="restore the file, or remove it and run again",
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
    if "bits" in value:
        packed = np.frombuffer(base64.b64decode(value["bits"], validate=True), dtype=np.uint8)
        scores = np.unpackbits(packed)[:n].astype(float)
    else:
        scores = np.asarray(value["values"], dtype=float)
    if scores.shape != (n,) or not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError(f"expected {n} scores in [0, 1]")
    types = {name: (float(mean), int(count)) for name, (mean, count) in value["types"].items()}
    return TaskScores(scores, types, {name: float(mean) for name, mean in value["metrics"].items()})
