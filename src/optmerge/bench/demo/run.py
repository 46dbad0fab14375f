"""The demo: five experts become one model, everyone takes the same test; one table and one picture."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from optmerge.bench.demo import picture
from optmerge.bench.lines import checkout, default_zoo
from optmerge.bench.tasks import Task, registered
from optmerge.bench.trials import cells, examine, orders, output
from optmerge.bench.trials.cells import BASE, EXPERT, Result
from optmerge.bench.trials.entrants import standings
from optmerge.bench.trials.errands import Errand
from optmerge.bench.trials.orders import Job
from optmerge.bench.trials.run import Progress
from optmerge.bench.trials.run import run as run_order
from optmerge.bench.trials.selection import average, best_scale, sweeps
from optmerge.bench.trials.workers import Workers
from optmerge.errors import RunError
from optmerge.evaluate.questions import Question
from optmerge.evaluate.scoring.boxes import parse_box

if TYPE_CHECKING:
    from rich.console import Console

QUESTIONS = 60
"""Of each capability: so many that the demo takes about a minute."""


def default_records() -> Path | None:
    """`results/bench` of the source tree that this package runs from: where scales were chosen."""
    tree = checkout()
    return tree / "results" / "bench" if tree else None


def run(
    out: Path = Path("out/demo"),
    *,
    line: str = "full",
    zoo: Path | None = None,
    scales: Path | None = None,
    n: int = QUESTIONS,
    methods: Sequence[str] = orders.QUICK_METHODS,
    console: Console | None = None,
) -> list[Result]:
    """Merge the shipped experts with several methods and ask everyone the same test questions.

    Args:
        out: gets `records`, `answers.png` and what the two are made of; run again, it starts over.
        line: of models.
        zoo: folder of the models.
        scales: folder of records whose sweeps on the validation split say at which scale each method is best;
            where there is none, only the default scale is shown.
        n: questions of each capability.
        methods: names.
        console: where the table goes.

    Returns:
        Every model's result.

    Raises:
        CheckpointError: a model is missing.
        RunError: a merge failed.
    """
    from rich.console import Console

    started, console = time.perf_counter(), console or Console()
    records, scratch = out / "records", out / "models"
    for folder in (records, scratch):
        shutil.rmtree(folder, ignore_errors=True)
    swept = _swept(scales or default_records(), line)
    order = orders.order(zoo or default_zoo(), [line], [0], methods, n=n, quick=True)
    jobs = [each for job in order.jobs for each in _at_both_scales(job, swept)]
    with console.status("") as status, Workers(examine.run, 2) as pool:

        def report(progress: Progress) -> None:
            status.update(f"{progress.result.cell.name} ({progress.done} of {progress.total})")

        everything = replace(order, jobs=tuple(jobs))
        found = run_order(everything, pool, records, scratch, n=n, keep=True, report=report)
    failed = next((result for result in found if result.error is not None), None)
    if failed is not None:
        raise RunError(f"{failed.cell.name}: {failed.error}")
    output.show_scores(standings([*swept, *found], n=n), "terminal", console)
    kept = {job.cell.identity(): Errand(job, records, scratch).folder / "answers.json" for job in jobs}
    image = illustrate(out / "answers.png", [(each, kept[each.cell.identity()]) for each in found])
    seconds = time.perf_counter() - started
    console.print(f"[dim]picture  {image}\n{seconds:.0f} s in all[/dim]", highlight=False)
    return found


def _swept(folder: Path | None, line: str) -> list[Result]:
    """The recorded results on a line's validation split."""
    everything = cells.read_all(folder) if folder and folder.is_dir() else []
    return [each for each in everything if each.cell.split == "validation" and each.cell.line == line]


def _at_both_scales(job: Job, swept: Sequence[Result]) -> Iterator[Job]:
    """A merge at its default scale and, if records tell, at the one that is best on the validation split."""
    yield job
    mine = [each for each in swept if each.cell.weights == job.cell.weights]
    sweep = sweeps(mine).get((job.cell.model, job.cell.expert_set), {})
    scale = best_scale(sweep)
    if scale not in (None, job.cell.scale):
        yield replace(job, cell=replace(job.cell, scale=scale, default=False))


def illustrate(path: Path, found: Sequence[tuple[Result, Path]], *, each: int = 3) -> Path:
    """Draw what base, own expert and best merge answered to the first questions of every capability.

    Args:
        path: of the picture.
        found: results, and the files with the answers.
        each: scenes a capability.
    """
    answers = {result.cell.model: file for result, file in found if not result.cell.merged}
    best, file = max((pair for pair in found if pair[0].cell.merged), key=lambda pair: average(pair[0]))
    columns = {}
    for name, task in registered().items():
        if EXPERT + name not in answers:
            continue
        files = {"base": answers[BASE], "expert": answers[EXPERT + name], "merged": file}
        said = {who: json.loads(kept.read_text("utf-8"))[name] for who, kept in files.items()}
        columns[task.title] = [
            picture.Card(
                item.image,
                item.question.text,
                item.question.answers[0],
                [_answer(task, who, kept[row]["said"], item.question) for who, kept in said.items()],
            )
            for row, item in enumerate(task.items("test", min(each, len(said["base"]))))
            if item.image is not None
        ]
    title = f"One base, {len(columns)} experts, one merged model ({best.cell.model})"
    return picture.draw(path, title, columns)


def _answer(task: Task, who: str, said: str, question: Question) -> picture.Answer:
    box = parse_box(said, "hundredths") if parse_box(question.answers[0], "hundredths") else None
    return picture.Answer(who, said, task.metric(said, question) == 1.0, box)
