"""The demo: five experts become one model, everyone takes the same test; one table and one picture."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from optmerge.bench.demo import picture
from optmerge.bench.lines import default_zoo
from optmerge.bench.tasks import Task, registered
from optmerge.bench.trials import examine
from optmerge.bench.trials.jobs import QUICK_METHODS, Job, jobs
from optmerge.bench.trials.record_choice import average
from optmerge.bench.trials.run import RunProgress
from optmerge.bench.trials.run import run as run_jobs
from optmerge.bench.trials.trials import BASE, MIXTURE, TrialResult
from optmerge.bench.trials.workers import Workers
from optmerge.errors import RunError
from optmerge.evaluate import statistics
from optmerge.evaluate.questions import Question
from optmerge.evaluate.scoring.boxes import parse_box
from optmerge.methods import get
from optmerge.recipe import AUTO

if TYPE_CHECKING:
    from rich.console import Console

DEFAULT = get(AUTO).name
_MERGED = f"merged by default ({DEFAULT})"
QUESTIONS = 60
"""Test questions of each capability, so that the demo takes about a minute."""
CHOICE = 40
"""Validation questions of each capability on which a method is chosen, at most."""


def run(
    out: Path = Path("out/demo"),
    *,
    line: str = "full",
    zoo: Path | None = None,
    n: int = QUESTIONS,
    methods: Sequence[str] = QUICK_METHODS,
    console: Console | None = None,
) -> list[TrialResult]:
    """Merge the shipped experts by the defaults and by a chosen method, and ask everyone the same questions.

    Args:
        out: gets `records`, `answers.png` and what the two are made of; run again, it starts over.
        line: of models.
        zoo: folder of the models.
        n: test questions of each capability.
        methods: names of those that are chosen from on validation questions; the default one comes to them.
        console: where the table goes.

    Returns:
        Every model's result: first those on test questions, the chosen method's last of them.

    Raises:
        CheckpointError: a model is missing.
        RunError: a merge failed.
    """
    from rich.console import Console

    started, console = time.perf_counter(), console or Console()
    records, scratch = out / "records", out / "models"
    wanted, _ = jobs(zoo or default_zoo(), [line], [0], [DEFAULT, *methods], n=n, quick=True)
    for folder in (records, scratch):
        shutil.rmtree(folder, ignore_errors=True)
    work = partial(examine.run, out=records, scratch=scratch, keep=True)
    with console.status("") as status, Workers(work, 2) as pool:

        def done(jobs: Sequence[Job]) -> list[TrialResult]:
            def report(progress: RunProgress) -> None:
                trial = progress.result.trial
                status.update(f"{trial.name}, {trial.split} ({progress.done} of {progress.total})")

            found = run_jobs(jobs, pool, records, scratch, report=report)
            for result in found:
                if result.error is not None:
                    raise RunError(f"{result.trial.name}: {result.error}")
            return found

        tests = [test for job in wanted if (test := _test(job)) is not None]
        choices = [_choice(job) for job in wanted if job.trial.kind == "merge"]
        everyone = done([*tests, *choices])
        found = [each for each in everyone if each.trial.split == "test"]
        tried = [each for each in everyone if each.trial.split == "validation"]
        best = max(tried, key=lambda each: (average(each), each.trial.model == DEFAULT)).trial.model
        if best != DEFAULT:
            chosen = [job for job in wanted if (job.trial.kind, job.trial.model) == ("merge", best)]
            tests += [_of_tasks(job) for job in chosen]
            found += done(tests[-1:])
    _tell(found, tried, best, console)
    kept = {job.trial.identity(): job.answers(scratch) for job in tests}
    image = illustrate(out / "answers.png", [(each, kept[each.trial.identity()]) for each in found])
    seconds = time.perf_counter() - started
    console.print(f"[dim]picture  {image}\n{seconds:.0f} s in all[/dim]", highlight=False)
    return [*found, *tried]


def _test(job: Job) -> Job | None:
    """What the demo asks on the test split: everyone's capabilities, and experts their own; or nothing."""
    trial = job.trial
    if trial.kind == "merge" and trial.model != DEFAULT:
        return None
    return _of_tasks(job, trial.model if trial.kind == "expert" else None)


def _choice(job: Job) -> Job:
    """A merge on the validation split."""
    trial = _of_tasks(job).trial
    return replace(job, trial=replace(trial, split="validation", n=min(CHOICE, trial.n)))


def _of_tasks(job: Job, only: str | None = None) -> Job:
    """The job without the tasks that no expert learns, or with one task alone."""
    tasks = {name: registered()[name] for name in job.trial.tasks}
    asked = {
        name: job.trial.tasks[name] for name, task in tasks.items() if task.trained and only in (None, name)
    }
    return replace(job, trial=replace(job.trial, tasks=asked))


def _tell(found: Sequence[TrialResult], tried: Sequence[TrialResult], best: str, console: Console) -> None:
    """The table and what it says, in 80 columns."""
    from rich.table import Table

    rows = _rows(found, best)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("% of the answers right")
    for name in rows["base"]:
        table.add_column(registered()[name].title, justify="right")
    table.add_column("Average", justify="right")
    for name, scores in rows.items():
        means = [each.mean() for each in scores.values()]
        style = "bold" if name.startswith("merged") else ""
        table.add_row(name, *(f"{100 * each:.0f}" for each in [*means, fmean(means)]), style=style)
    console.print(table)
    base, experts, merged = (list(rows[name].values()) for name in ("base", "its own expert", _MERGED))
    gain, kept = statistics.compare(merged, base), statistics.normalised(merged, experts)
    console.print(
        f"\nMerged without data, one model scores {100 * gain.mean:+.0f} points against its base "
        f"(95 % interval {100 * gain.low:+.0f} to {100 * gain.high:+.0f}, {merged[0].size} questions each)"
        + (f" and keeps {100 * kept.score:.0f} % of the experts' scores. " if kept else ". ")
        + f"Tuned: {best}, the best of {len(tried)} methods on {tried[0].trial.n} other questions each.",
        highlight=False,
        width=min(console.width, 100),
    )


def _rows(found: Sequence[TrialResult], best: str) -> dict[str, dict[str, statistics.Scores]]:
    """Name of a row → task → scores, (1, question)."""
    scores = {
        (each.trial.kind, each.trial.model): {name: task.scores[None] for name, task in each.tasks.items()}
        for each in found
    }
    rows = {
        "base": scores["base", BASE],
        "its own expert": {name: scores["expert", name][name] for name in scores["base", BASE]},
        _MERGED: scores["merge", DEFAULT],
        f"merged, tuned ({best})": scores["merge", best],
    }
    if ("mixture", MIXTURE) in scores:
        rows["trained on all the data"] = scores["mixture", MIXTURE]
    return rows


def illustrate(path: Path, found: Sequence[tuple[TrialResult, Path]], *, each: int = 3) -> Path:
    """Draw what base, own expert and default merge answered to questions where not all are right or wrong.

    Args:
        path: of the picture.
        found: results, and the files with the answers.
        each: scenes a capability.
    """
    files = {(result.trial.kind, result.trial.model): file for result, file in found}
    columns = {}
    for name, task in registered().items():
        if ("expert", name) not in files:
            continue
        asked = {
            "base": files["base", BASE],
            "expert": files["expert", name],
            "merged": files["merge", DEFAULT],
        }
        said = {who: json.loads(kept.read_text("utf-8"))[name] for who, kept in asked.items()}
        cards = [
            picture.Card(
                item.image,
                item.question.text,
                item.question.answers[0],
                [_answer(task, who, kept[row]["said"], item.question) for who, kept in said.items()],
            )
            for row, item in enumerate(task.items("test", len(said["base"])))
            if item.image is not None
        ]
        differing = [card for card in cards if len({answer.right for answer in card.answers}) > 1]
        columns[task.title] = (differing or cards)[:each]
    title = f"One base, {len(columns)} experts, one merged model: questions where they differ"
    return picture.draw(path, title, columns)


def _answer(task: Task, who: str, said: str, question: Question) -> picture.Answer:
    box = parse_box(said, "hundredths") if parse_box(question.answers[0], "hundredths") else None
    return picture.Answer(who, said, task.metric(said, question) == 1.0, box)
