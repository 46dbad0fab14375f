"""A split of the benchmark's tasks as files: pictures, and the questions that `optmerge eval` asks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optmerge.bench.tasks import Split, Task
from optmerge.errors import InputError, OutputError
from optmerge.evaluate.questions import Item
from optmerge.evaluate.scoring.metrics import METRICS

QUESTIONS = "questions.jsonl"
"""File of the questions."""


def export(tasks: Sequence[Task], split: Split, n: int, folder: Path) -> Path:
    """Writes the first `n` items of a split of each task into `folder/questions.jsonl`, pictures beside it.

    Args:
        tasks: each becomes a group of its name.
        split: of each task.
        n: questions a task, or all where there are fewer.
        folder: new, or empty.

    Returns:
        The file of the questions.

    Raises:
        InputError: a task's metric can't be named in a file, or its data set isn't there.
        OutputError: the folder holds something already.
    """
    metrics = {task.name: _metric(task) for task in tasks}
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError("the folder isn't empty", where=folder, hint="choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / QUESTIONS).open("w", encoding="utf-8") as file:
        for task in tasks:
            for number, item in enumerate(task.items(split, n)):
                line = _line(item, f"{task.name}-{split}-{number:05}", folder)
                named = {"group": task.name, "metric": metrics[task.name]}
                print(json.dumps(line | named, ensure_ascii=False), file=file)
    return folder / QUESTIONS


def _metric(task: Task) -> str:
    for name, metric in METRICS.items():
        if metric is task.metric:
            return name
    raise InputError(
        f"{task.title} is scored in a way that a file of questions can't name",
        where=task.name,
        expected=f"one of {', '.join(METRICS)}",
        hint="choose other tasks with --task",
    )


def _line(item: Item, name: str, folder: Path) -> dict[str, Any]:
    """The item as a line of the file; its picture is written."""
    shown: dict[str, Any] = {}
    if item.image is not None:
        path = folder / "pictures" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        item.image.save(path)
        shown["image"] = f"pictures/{path.name}"
    if item.video is not None:
        shown["video"] = str(item.video.resolve())
    return {"id": name, **shown, "question": item.question.text, "answers": list(item.question.answers)}
