"""`python -m perf.generators [TASK …]`: how fast the benchmark's scenes are made, on one core."""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

from optmerge.bench.tasks import SPLITS, DrawnTask, Split, drawn

SCENES = 2000
LIMIT = 500
"""Scenes per second each task should reach, pictures, questions and captions included."""


@dataclass(frozen=True)
class Rate:
    """One task's figures for one split, per second of processor time.

    Args:
        plans: contents planned; a scene held out for testing costs several tries.
        scenes: whole scenes, planning included.
        questions: questions of those scenes.
        captions: captions of those scenes.
    """

    plans: float
    scenes: float
    questions: float
    captions: float


def measure(task: DrawnTask, split: Split, scenes: int) -> Rate:
    """Makes that many scenes, after one that opens fonts and data sets."""
    task.scene(split, 0)
    started = time.process_time()
    for index in range(scenes):
        task.content(split, index)
    planned = time.process_time()
    made = [task.scene(split, index) for index in range(scenes)]
    seconds = time.process_time() - planned
    return Rate(
        scenes / (planned - started),
        scenes / seconds,
        sum(len(scene.questions) for scene in made) / seconds,
        sum(len(scene.captions) for scene in made) / seconds,
    )


def main() -> None:
    """Measures the tasks asked for, all by default, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", nargs="*", help="all unless named")
    parser.add_argument("--scenes", type=int, default=SCENES, help="per task and split")
    arguments = parser.parse_args()
    print(f"per second and core, {arguments.scenes} scenes each; at least {LIMIT} scenes wanted")
    print(f"{'task':14s} {'split':12s} {'plans':>8s} {'scenes':>8s} {'questions':>10s} {'captions':>9s}")
    for task in [drawn()[name] for name in arguments.tasks or drawn()]:
        for split in SPLITS:
            rate = measure(task, split, arguments.scenes)
            print(
                f"{task.name:14s} {split:12s} {rate.plans:8.0f} {rate.scenes:8.0f} "
                f"{rate.questions:10.0f} {rate.captions:9.0f}"
                + ("" if rate.scenes >= LIMIT else "  too slow"),
                flush=True,
            )


if __name__ == "__main__":
    main()
