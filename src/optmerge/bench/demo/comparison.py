"""The demo: five experts become one model, everyone takes the same test; one table and one picture."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from optmerge.bench.demo import picture
from optmerge.bench.lines import default_zoo
from optmerge.bench.tasks import Task, registered
from optmerge.bench.trials import examine, output
from optmerge.bench.trials.jobs import QUICK_METHODS, jobs
from optmerge.bench.trials.line_scores import line_scores
from optmerge.bench.trials.record_choice import average
from optmerge.bench.trials.run import RunProgress
from optmerge.bench.trials.run import run as run_jobs
from optmerge.bench.trials.trials import BASE, TrialResult
from optmerge.bench.trials.workers import Workers
from optmerge.errors import RunError
from optmerge.evaluate.questions import Question
from optmerge.evaluate.scoring.boxes import parse_box

if TYPE_CHECKING:
    from rich.console import Console

QUESTIONS = 60
"""Questions of each capability, so that the demo takes about a minute."""


def run(
    out: Path = Path("out/demo"),
    *,
    line: str = "full",
    zoo: Path | None = None,
    n: int = QUESTIONS,
    methods: Sequence[str] = QUICK_METHODS,
    console: Console | None = None,
) -> list[TrialResult]:
    """Merge the shipped experts with several methods and ask everyone the same test questions.

    Args:
        out: gets `records`, `answers.png` and what the two are made of; run again, it starts over.
        line: of models.
        zoo: folder of the models.
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
    wanted, _ = jobs(zoo or default_zoo(), [line], [0], methods, n=n, quick=True)
    work = partial(examine.run, out=records, scratch=scratch, keep=True)
    with console.status("") as status, Workers(work, 2) as pool:

        def report(progress: RunProgress) -> None:
            status.update(f"{progress.result.trial.name} ({progress.done} of {progress.total})")

        found = run_jobs(wanted, pool, records, scratch, report=report)
    failed = next((result for result in found if result.error is not None), None)
    if failed is not None:
        raise RunError(f"{failed.trial.name}: {failed.error}")
    output.show_scores(line_scores(found, n=n), "terminal", console)
    kept = {job.trial.identity(): job.answers(scratch) for job in wanted}
    image = illustrate(out / "answers.png", [(each, kept[each.trial.identity()]) for each in found])
    seconds = time.perf_counter() - started
    console.print(f"[dim]picture  {image}\n{seconds:.0f} s in all[/dim]", highlight=False)
    return found


def illustrate(path: Path, found: Sequence[tuple[TrialResult, Path]], *, each: int = 3) -> Path:
    """Draw what base, own expert and best merge answered to the first questions of every capability.

    Args:
        path: of the picture.
        found: results, and the files with the answers.
        each: scenes a capability.
    """
    answers = {
        (result.trial.kind, result.trial.model): file
        for result, file in found
        if result.trial.kind != "merge"
    }
    merges = [pair for pair in found if pair[0].trial.kind == "merge"]
    best, file = max(merges, key=lambda pair: average(pair[0]))
    columns = {}
    for name, task in registered().items():
        if ("expert", name) not in answers:
            continue
        files = {"base": answers["base", BASE], "expert": answers["expert", name], "merged": file}
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
    title = f"One base, {len(columns)} experts, one merged model ({best.trial.model})"
    return picture.draw(path, title, columns)


def _answer(task: Task, who: str, said: str, question: Question) -> picture.Answer:
    box = parse_box(said, "hundredths") if parse_box(question.answers[0], "hundredths") else None
    return picture.Answer(who, said, task.metric(said, question) == 1.0, box)
