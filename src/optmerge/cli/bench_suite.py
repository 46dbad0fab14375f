"""`optmerge bench run`, `table`, `figure` and `preview`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from optmerge.errors import InputError, RunError

if TYPE_CHECKING:
    from optmerge.bench.suite.output import Form
    from optmerge.bench.suite.run import Progress

RECORDS = Path("results/bench")
Lines = Annotated[
    list[str] | None, typer.Option("--line", help="Line of models: full or lora; repeat.", metavar="LINE")
]
Records = Annotated[Path, typer.Option(help="Folder of the records.", metavar="DIR")]
Questions = Annotated[int | None, typer.Option("--n", help="Questions a capability.", min=1)]


def run(
    line: Lines = None,
    sets: Annotated[
        str | None, typer.Option("--set", help="Expert sets, such as 0,1,2; all by default.", metavar="N,…")
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="Merging method; repeat; all by default.", metavar="NAME")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer questions and methods, default scales: minutes, not hours.")
    ] = False,
    n: Questions = None,
    zoo: Annotated[Path | None, typer.Option(help="Folder of the models.", metavar="DIR")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the records.", metavar="DIR")] = RECORDS,
    scratch: Annotated[Path, typer.Option(help="Folder for merged models.", metavar="DIR")] = Path(
        "out/bench"
    ),
    jobs: Annotated[int, typer.Option(help="Processes, one core each.", min=1)] = 2,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep merged models and answers in --scratch.")
    ] = False,
) -> None:
    """Merge with every method, ask everyone everything, and record it; run again to continue.

    Example: `optmerge bench run --line full --quick`
    """
    from optmerge.bench.suite import examine, orders, output
    from optmerge.bench.suite.entrants import standings
    from optmerge.bench.suite.run import run as run_order
    from optmerge.bench.suite.workers import Workers
    from optmerge.bench.suite.zoo import default_zoo
    from optmerge.cli import Interrupted
    from optmerge.cli.tables import console

    questions = n or (orders.QUICK if quick else orders.TEST)
    order = orders.order(
        zoo or default_zoo(),
        line or [],
        _numbers(sets),
        method or (orders.QUICK_METHODS if quick else []),
        n=questions,
        quick=quick,
    )
    shown = console()
    for remark in order.remarks:
        shown.print(f"[dim]{remark}[/]")
    try:
        with Workers(examine.run, jobs) as pool, progress() as report:
            results = run_order(order, pool, out, scratch, n=questions, keep=keep, report=report)
    except Interrupted:
        print(f"what is done is recorded in {out}; the same command continues", file=sys.stderr)
        raise
    output.show_scores(standings(results, n=questions), "terminal", shown)
    failures = [result for result in results if result.error is not None]
    if failures:
        names = "\n".join(f"  {result.cell.name}: {result.error}" for result in failures)
        raise RunError(f"{len(failures)} of {len(results)} cells failed; run again to retry\n{names}")


def table(
    records: Records = RECORDS,
    line: Lines = None,
    n: Questions = None,
    rule: Annotated[
        Literal["fixed", "validation"] | None, typer.Option(help="Only merges whose scale was chosen so.")
    ] = None,
    pairs: Annotated[bool, typer.Option("--pairs", help="Which differences are real, pair by pair.")] = False,
    paper: Annotated[bool, typer.Option("--paper", help="The paper's tables instead of ours.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="As Markdown.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="One row a line.")] = False,
    latex: Annotated[bool, typer.Option("--latex", help="As LaTeX, for booktabs.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One list of rows, for programs.")] = False,
) -> None:
    """Show the table that the records hold.

    Example: `optmerge bench table --markdown`
    """
    from optmerge.bench.suite import output
    from optmerge.cli.tables import console

    form = chosen_form(markdown=markdown, csv=csv, latex=latex, json=as_json)
    if paper and pairs:
        raise InputError("the paper's answers to single questions aren't published", got="--paper --pairs")
    if paper:
        output.show_paper(form, console())
        return
    show = output.show_pairs if pairs else output.show_scores
    show(output.read(records, line or [], n), form, console(), rule)


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


def figure(
    records: Records = RECORDS,
    line: Lines = None,
    n: Questions = None,
    out: Annotated[Path, typer.Option(help="Output folder.", metavar="DIR")] = Path("out/figures"),
) -> None:
    """Draw the records: radar, heat map, scale sweeps, cost, and the paper's results beside ours.

    Example: `optmerge bench figure --out out/figures`
    """
    from optmerge.bench.suite import output
    from optmerge.bench.suite.figures import draw

    for path in draw(output.read(records, line or [], n), out):
        print(path)


def preview(
    task: Annotated[str, typer.Argument(help="Task: vqa, geometry, chart, …", metavar="TASK")],
    out: Annotated[Path, typer.Option(help="PNG file.", metavar="FILE")],
    split: Annotated[Literal["train", "validation", "test"], typer.Option(help="Which scenes.")] = "train",
    seed: Annotated[int, typer.Option(help="Of the scenes.", min=0)] = 0,
    captions: Annotated[bool, typer.Option("--captions", help="Add what the base learns to see by.")] = False,
) -> None:
    """Draw some of a task's pictures, each with a question and its answer, as one sheet.

    Example: `optmerge bench preview chart --out chart.png`
    """
    from optmerge.bench.preview import contact_sheet
    from optmerge.bench.tasks.registry import get

    chosen = get(task)
    out.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(chosen, split, seed, out, captions=captions)
    print(out)


def _numbers(text: str | None) -> list[int]:
    """`0,1,2` as numbers."""
    parts = [part.strip() for part in (text or "").split(",") if part.strip()]
    if not all(part.isdecimal() for part in parts):
        raise InputError("expert sets are numbers", where="--set", got=text, expected="such as 0,1,2")
    return list(dict.fromkeys(map(int, parts)))


@contextmanager
def progress() -> Iterator[Callable[[Progress], None]]:
    """What a run reports to: a line a cell, and on a terminal a bar below."""
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
        task = bar.add_task("cells", total=None)

        def report(progress: Progress) -> None:
            bar.update(task, completed=progress.done, total=progress.total)
            bar.console.print(_line(progress), markup=False, soft_wrap=True)

        yield report


def _line(progress: Progress) -> str:
    from optmerge.bench.suite.selection import average

    result = progress.result
    if result.error is not None:
        outcome = "FAILED: " + result.error.partition("\n")[0]
    else:
        outcome = f"{100 * average(result):.1f} %" + (" (recorded before)" if progress.reused else "")
    return f"[{progress.done}/{progress.total}] {result.cell.name}: {outcome}"
