"""Learning curves as JSON lines: the loss, and validation scores while a model is trained."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from optmerge.bench.lines.tiny.asking import answers
from optmerge.bench.lines.tiny.family import Processor
from optmerge.bench.tasks import Task
from optmerge.bench.training import attention


class Curve(TrainerCallback):  # type: ignore[misc]
    """Writes a line at every log of the Trainer and whenever validation questions are asked.

    Args:
        path: file of the curve; a resumed run cuts off what was written after its checkpoint.
        processor: processor of the model.
        tasks: tasks whose validation questions are asked, by name.
        every: steps between two times of asking; the last step is one too. 0 never asks.
        count: questions of a task.
    """

    def __init__(
        self, path: Path, processor: Processor, tasks: Mapping[str, Task], *, every: int, count: int = 50
    ) -> None:
        self.path, self.processor, self.every = path, processor, every
        self.tasks = tasks if every else {}
        self.asked = {name: list(task.items("validation", count)) for name, task in self.tasks.items()}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Drop the lines that a killed run wrote after the checkpoint that this run starts from."""
        kept = [line for line in read(self.path) if line["step"] <= state.global_step]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any], **kwargs: Any) -> None:
        """Write the loss (weighted mean over the learnt tokens since the last log) and the learning rate."""
        if "loss" in logs:
            loss, rate = float(logs["loss"]), float(logs["learning_rate"])
            self._write({"step": state.global_step, "loss": loss, "learning_rate": rate})

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
        """Write the scores, if this is a step at which questions are asked."""
        if self.every and (state.global_step % self.every == 0 or state.global_step == state.max_steps):
            model.eval()
            model.set_attn_implementation("sdpa")
            self._write({"step": state.global_step, **self.look(model)})
            model.set_attn_implementation(attention.NAME)
            model.train()

    def look(self, model: Any) -> dict[str, Any]:
        """Mean scores in [0, 1], as {"score": {task: …}, "types": {task: {type: …}}}."""
        score: dict[str, float] = {}
        types: dict[str, dict[str, float]] = {}
        for task, drawn in self.asked.items():
            metric = self.tasks[task].metric
            replies = answers(model, self.processor, drawn)
            found: dict[str, list[float]] = defaultdict(list)
            for one, reply in zip(drawn, replies, strict=True):
                found[one.question.type].append(metric(reply, one.question))
            score[task] = round(sum(map(sum, found.values())) / len(drawn), 4)
            types[task] = {name: round(sum(s) / len(s), 4) for name, s in sorted(found.items())}
        return {"score": score, "types": types}

    def _write(self, line: Mapping[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a curve, decoded; an empty list where there is no file."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
