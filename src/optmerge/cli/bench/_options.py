"""Shared by the commands of the two benchmarks: options, a run with its progress, the form of a table."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from optmerge.errors import InputError, RunError

if TYPE_CHECKING:
    from rich.console import Console

    from optmerge.bench.trials.jobs import Job
    from optmerge.bench.trials.output import Form
    from optmerge.bench.trials.run import RunProgress
    from optmerge.bench.trials.trials import TrialResult

    Report = Callable[[RunProgress], None]

Seed = Annotated[int, typer.Option(help="Seed of everything random.", min=0)]
Threads = Annotated[int, typer.Option(help="Processor threads.", min=1)]

OUT = Path("out/bench")
"""Where `bench run` writes unless --out says otherwise."""
Lines = Annotated[
    list[str] | None,
    typer.Option("--line", help="Line of models, such as full or lora; repeat.", metavar="LINE"),
]
Questions = Annotated[int | None, typer.Option("--n", help="Questions a capability.", min=1)]
Methods = Annotated[
    list[str] | None, typer.Option("--method", help="Merging method; repeat; all by default.", metavar="NAME")
]
Quick = Annotated[
    bool,
    typer.Option("--quick", help="Fewer questions and methods, scales from the deltas: minutes, not hours."),
]
Zoo = Annotated[Path | None, typer.Option(help="Folder of the models.", metavar="DIR")]
Records = Annotated[
    Path | None,
    typer.Option(help="Only this folder of records; else the shipped ones and those in out/.", metavar="DIR"),
]
Scratch = Annotated[Path, typer.Option(help="Folder for merged models.", metavar="DIR")]
Jobs = Annotated[int, typer.Option(help="Processes, one core each.", min=1)]
Device = Annotated[str, typer.Option(help="Where models are merged and answer: cpu, cuda, cuda:1.")]
Keep = Annotated[bool, typer.Option("--keep", help="Keep merged models and answers in --scratch.")]

AsMarkdown = Annotated[bool, typer.Option("--markdown", help="As Markdown.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="One row a line.")]
AsLatex = Annotated[bool, typer.Option("--latex", help="As LaTeX, for booktabs.")]
AsJson = Annotated[bool, typer.Option("--json", help="One list of rows, for programs.")]


def chosen_form(*, markdown: bool, csv: bool, latex: bool, json: bool) -> Form:
    """The form of a table that the options ask for.

    Raises:
        InputError: they ask for several.
    """
    forms: dict[Form, bool] = {"markdown": markdown, "csv": csv, "latex": latex, "json": json}
    chosen = [form for form, asked in forms.items() if asked]
    if len(chosen) > 1:
        raise InputError(
            "only one form at a time", got=", ".join(f"--{form}" for form in chosen), hint="choose one"
        )
    return chosen[0] if chosen else "terminal"


def folders(benchmark: str, records: Path | None, out: Path) -> list[Path]:
    """Folders of records that a table is made of.

    Args:
        benchmark: name of the shipped records' folder.
        records: the one folder that is asked for; None for the shipped records and those in `out`.
        out: where runs write by default.
    """
    from optmerge.bench.records import shipped

    return [*shipped(benchmark), out] if records is None else [records]


def perform(
    jobs: Sequence[Job],
    remarks: Sequence[str],
    examine: Callable[..., TrialResult],
    show: Callable[[list[TrialResult], Console], None],
    *,
    known: Sequence[Path],
    out: Path,
    scratch: Path,
    processes: int,
    keep: bool,
    **options: str,
) -> None:
    """Does a run: shows remarks, how far the run is, and what came of it.

    Args:
        jobs: what to do.
        remarks: on what is left out.
        examine: (job, out, scratch, keep) does one job in a process.
        show: prints the results.
        known: other folders of records, whose results needn't be worked out again.
        out: folder of the records.
        scratch: folder for merged models.
        processes: that work side by side.
        keep: leave merged models and answers in `scratch`.
        options: more arguments of `examine`.

    Raises:
        RunError: some trials failed.
    """
    from optmerge.bench.trials.run import run
    from optmerge.bench.trials.trials import read_all
    from optmerge.bench.trials.workers import Workers
    from optmerge.cli import Interrupted
    from optmerge.cli.console import console

    shown = console()
    for remark in remarks:
        shown.print(f"[dim]{remark}[/]")
    work = partial(examine, out=out, scratch=scratch, keep=keep, **options)
    earlier = read_all(*known, benchmark=jobs[0].trial.benchmark) if jobs else []
    try:
        with Workers(work, processes) as pool, _progress() as report:
            results = run(jobs, pool, out, scratch, known=earlier, report=report)
    except Interrupted:
        print(f"what is done is recorded in {out}; the same command continues", file=sys.stderr)
        raise
    show(results, shown)
    failures = [result for result in results if result.error is not None]
    if failures:
        names = "\n".join(f"  {result.trial.name}: {result.error}" for result in failures)
        raise RunError(f"{len(failures)} of {len(results)} trials failed; run again to retry\n{names}")


@contextmanager
def _progress() -> Iterator[Report]:
    """Function that a run reports to: prints a line a trial, and on a terminal a bar below."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import (
        Progress as Bar,
    )

    console = Console(stderr=True, highlight=False)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("trials", total=None)

        def report(progress: RunProgress) -> None:
            bar.update(task, completed=progress.done, total=progress.total)
            bar.console.print(_line(progress), markup=False, soft_wrap=True)

        yield report


def _line(progress: RunProgress) -> str:
    from optmerge.bench.trials.record_choice import average

    result = progress.result
    if result.error is not None:
        outcome = "FAILED: " + result.error.partition("\n")[0]
    else:
        outcome = f"{100 * average(result):.1f} %" + (" (recorded before)" if progress.reused else "")
    return f"[{progress.done}/{progress.total}] {result.trial.name}: {outcome}"
