"""Stages trained one after the other, each once: what a training that may be killed leaves and finds."""

from __future__ import annotations

import copy
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from optmerge.bench import records
from optmerge.bench.lines.tiny.family import write_json
from optmerge.bench.training.learning import Stage
from optmerge.errors import InputError, did_you_mean


@dataclass(frozen=True)
class Traces:
    """Files of a stage beside what it makes.

    Args:
        out: folder of the training.
        name: of the stage.
    """

    out: Path
    name: str

    @property
    def note(self) -> Path:
        """Written last: the stage is complete."""
        return self.out / "work" / f"{self.name}.json"

    @property
    def curve(self) -> Path:
        """The learning curve."""
        return self.out / "work" / f"{self.name}.jsonl"

    @property
    def run(self) -> Path:
        """Folder of the checkpoints, gone when the stage is complete."""
        return self.out / "work" / f"{self.name}-run"


def chosen(stages: Mapping[str, Stage], only: Sequence[str]) -> dict[str, Stage]:
    """The stages asked for, all if none is, in the order they are trained.

    Raises:
        InputError: one is unknown.
    """
    for name in only:
        if name not in stages:
            raise InputError(f"unknown stage {name!r}", where="stage", hint=did_you_mean(name, stages))
    return {name: stage for name, stage in stages.items() if not only or name in only}


def train(
    stages: Mapping[str, Stage],
    train_one: Callable[[str, Stage], None],
    out: Path,
    *,
    kind: str,
    place: Callable[[str], Path],
    config: Mapping[str, Any],
    seed: int,
    threads: int,
) -> records.Record:
    """Train the stages that aren't complete yet, and record all of them in `out/work`.

    Args:
        stages: in the order they are trained.
        train_one: takes a stage from its beginning or its last checkpoint to its finished folder.
        out: a new folder, or one that an earlier call was writing.
        kind: of the record.
        place: stage → its finished folder.
        config: what the record tells beside stages and threads.
        seed: for the record.
        threads: processor threads.
    """
    torch.set_num_threads(threads)
    notes = {}
    for name, stage in stages.items():
        traces = Traces(out, name)
        if not traces.note.is_file():
            started = time.perf_counter()
            train_one(name, stage)
            shutil.rmtree(traces.run, ignore_errors=True)  # a short run keeps nothing
            write_json(traces.note, {"last_call_seconds": round(time.perf_counter() - started, 1)})
        notes[name] = json.loads(traces.note.read_text("utf-8"))
    settings = {name: asdict(stage) for name, stage in stages.items()}
    record = records.new(
        kind=kind,
        config={"stages": settings, "threads": threads, **config},
        seeds={"train": seed},
        metrics={name: _last_look(Traces(out, name).curve) for name in stages},
        cost=notes,
        weights={name: records.weights_hash(place(name)) for name in stages},
    )
    records.write(record, out / "work")
    return record


def save_adapter(model: Any, folder: Path, start: str) -> None:
    """Write a PEFT folder in bfloat16.

    Args:
        model: with the adapter on it; stays as it is.
        folder: gets the adapter.
        start: name of the folder beside it that holds the model the adapter was trained on.
    """
    model = copy.deepcopy(model).to(torch.bfloat16)
    # Where it was trained means nothing to who reads it.
    model.peft_config["default"].base_model_name_or_path = f"../{start}"
    # "auto" would look on the hub whether the base's vocabulary is the adapter's.
    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # an empty form


def _last_look(curve: Path) -> Mapping[str, Any]:
    """What a learning curve ends with."""
    from optmerge.bench.training.curve import read

    looks = [line for line in read(curve) if "score" in line]
    return {"validation": looks[-1]["score"]} if looks else {}
