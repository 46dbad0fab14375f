"""Runs stages one after the other, each once: the files that tell finished work from interrupted work."""

from __future__ import annotations

import copy
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from optmerge.bench import records
from optmerge.bench.lines.tiny.family import write_json
from optmerge.errors import InputError, did_you_mean

RECORDS = "training.jsonl"
"""File of the records of a training, in its folder `work`."""
S = TypeVar("S")
"""Dataclass that describes a stage."""


@dataclass(frozen=True)
class StageFiles:
    """Files of a stage besides its model.

    Args:
        out: folder of the training.
        name: name of the stage.
    """

    out: Path
    name: str

    @property
    def note(self) -> Path:
        """File that is written last: it says that the stage is complete."""
        return self.out / "work" / f"{self.name}.json"

    @property
    def curve(self) -> Path:
        """File of the learning curve."""
        return self.out / "work" / f"{self.name}.jsonl"

    @property
    def run(self) -> Path:
        """Folder of the Trainer's checkpoints, removed when the stage is complete."""
        return self.out / "work" / f"{self.name}-run"


def chosen(stages: Mapping[str, S], only: Sequence[str]) -> dict[str, S]:
    """The stages of the given names, in the order in which they are trained; all of them if none is given.

    Raises:
        InputError: a name is unknown.
    """
    for name in only:
        if name not in stages:
            raise InputError(f"unknown stage {name!r}", where="stage", hint=did_you_mean(name, stages))
    return {name: stage for name, stage in stages.items() if not only or name in only}


def train_stages(
    stages: Mapping[str, S],
    train_one: Callable[[str, S], None],
    out: Path,
    *,
    kind: str,
    place: Callable[[str], Path],
    config: Mapping[str, Any],
    seed: int,
    threads: int,
    settings: Callable[[S], Mapping[str, Any]] = asdict,  # type: ignore[assignment]
) -> records.Record:
    """Train the stages that aren't complete yet, and write a record of all of them into `out/work`.

    Args:
        stages: name → stage, in the order in which they are trained.
        train_one: function that takes a stage from its beginning or its last checkpoint to its finished
            folder.
        out: a new folder, or one that an interrupted training left.
        kind: kind of the record.
        place: function from a stage's name to the folder of its model.
        config: further settings for the record.
        seed: seed of the training, for the record.
        threads: processor threads.
        settings: function from a stage to its settings in the record.
    """
    torch.set_num_threads(threads)
    notes = {}
    for name, stage in stages.items():
        files = StageFiles(out, name)
        if not files.note.is_file():
            started = time.perf_counter()
            train_one(name, stage)
            shutil.rmtree(files.run, ignore_errors=True)  # a short run keeps no checkpoint
            write_json(files.note, {"last_call_seconds": round(time.perf_counter() - started, 1)})
        notes[name] = json.loads(files.note.read_text("utf-8"))
    record = records.new(
        kind=kind,
        config={
            "stages": {name: settings(stage) for name, stage in stages.items()},
            "threads": threads,
            **config,
        },
        seeds={"train": seed},
        metrics={name: _last_scores(StageFiles(out, name).curve) for name in stages},
        cost=notes,
        weights={name: records.weights_hash(place(name)) for name in stages},
    )
    records.append(record, out / "work" / RECORDS)
    return record


def save_adapter(model: Any, folder: Path, start: str) -> None:
    """Write a PEFT folder in bfloat16.

    Args:
        model: a model with the adapter on it; left as it is.
        folder: folder of the adapter.
        start: name of the folder beside it that holds the model the adapter was trained on.
    """
    model = copy.deepcopy(model).to(torch.bfloat16)
    # The trainer's own path means nothing on another machine.
    model.peft_config["default"].base_model_name_or_path = f"../{start}"
    # "auto" would look on the hub whether the base's vocabulary is the adapter's.
    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # an empty form


def _last_scores(curve: Path) -> Mapping[str, Any]:
    """The last validation scores of a learning curve."""
    from optmerge.bench.training.curve import read

    scored = [line for line in read(curve) if "score" in line]
    return {"validation": scored[-1]["score"]} if scored else {}
