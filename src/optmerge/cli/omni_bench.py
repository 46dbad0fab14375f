"""`optmerge omni train`, `run` and `table`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from optmerge.errors import RunError

RECORDS = Path("results/omni")
Records = Annotated[Path, typer.Option(help="Folder of the records.", metavar="DIR")]
Questions = Annotated[int | None, typer.Option("--n", help="Questions with the same needs.", min=1)]


def train(
    out: Annotated[Path, typer.Option(help="Output folder.", metavar="DIR")] = Path("out/omni"),
    seed: Annotated[int, typer.Option(help="Seed of everything random.", min=0)] = 0,
    stage: Annotated[
        list[str] | None,
        typer.Option(help="Only this stage: base, audio-tower, …, audio, video, image; may be repeated."),
    ] = None,
    threads: Annotated[int, typer.Option(help="Processor threads.", min=1)] = 2,
) -> None:
    """Train a base that reads, towers and three experts; run again to continue after an interruption.

    Base and towers may be trained at the same time, a stage each, and so may the experts.

    Example: `optmerge omni train --seed 0 --out out/omni`
    """
    from optmerge.omni.bench import training

    training.train(out, seed=seed, only=stage or (), threads=threads)


def run(
    method: Annotated[
        list[str] | None, typer.Option(help="Merging method; repeat; all by default.", metavar="NAME")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer questions and methods, default scales: minutes, not hours.")
    ] = False,
    n: Questions = None,
    zoo: Annotated[Path | None, typer.Option(help="Folder of the models.", metavar="DIR")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the records.", metavar="DIR")] = RECORDS,
    scratch: Annotated[Path, typer.Option(help="Folder for composed models.", metavar="DIR")] = Path(
        "out/omni-run"
    ),
    jobs: Annotated[int, typer.Option(help="Processes, one core each.", min=1)] = 2,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep composed models and answers in --scratch.")
    ] = False,
) -> None:
    """Compose with every method, ask everyone with every subset of the inputs; run again to continue.

    Example: `optmerge omni run --quick`
    """
    from optmerge.bench.suite.run import run as run_order
    from optmerge.bench.suite.workers import Workers
    from optmerge.bench.suite.zoo import default_zoo
    from optmerge.cli import Interrupted
    from optmerge.cli.bench_suite import progress
    from optmerge.cli.tables import console
    from optmerge.omni.bench import examine, orders, output
    from optmerge.omni.bench.rows import standing

    questions = n or (orders.QUICK if quick else orders.TEST)
    chosen = method or (orders.QUICK_METHODS if quick else ())
    order = orders.order(zoo or default_zoo() / "omni", chosen, n=questions, quick=quick)
    shown = console()
    for remark in order.remarks:
        shown.print(f"[dim]{remark}[/]")
    try:
        with Workers(examine.run, jobs) as pool, progress() as report:
            results = run_order(
                order, pool, out, scratch, n=questions, keep=keep, report=report,
                kind=orders.KIND, test_of=orders.test_of,
            )  # fmt: skip
    except Interrupted:
        print(f"what is done is recorded in {out}; the same command continues", file=sys.stderr)
        raise
    if (found := standing(results, questions)) is not None:
        output.show_all(found, "terminal", shown)
    failures = [result for result in results if result.error is not None]
    if failures:
        names = "\n".join(f"  {result.cell.name}: {result.error}" for result in failures)
        raise RunError(f"{len(failures)} of {len(results)} cells failed; run again to retry\n{names}")


def table(
    records: Records = RECORDS,
    n: Questions = None,
    model: Annotated[
        str | None,
        typer.Option(help="Whose inputs are taken away; the best merge by default.", metavar="NAME"),
    ] = None,
    paper: Annotated[bool, typer.Option("--paper", help="The paper's rows, by family.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="As Markdown.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="One row a line.")] = False,
    latex: Annotated[bool, typer.Option("--latex", help="As LaTeX, for booktabs.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One list of rows, for programs.")] = False,
) -> None:
    """Show the tables that the records hold: complementarity, what merging costs, inputs taken away.

    Example: `optmerge omni table --markdown`
    """
    from optmerge.cli.bench_suite import chosen_form
    from optmerge.cli.tables import console
    from optmerge.omni.bench import output

    form = chosen_form(markdown=markdown, csv=csv, latex=latex, json=as_json)
    found = output.read(records, n)
    if paper:
        output.show_row_form(found, form, console())
    else:
        output.show_all(found, form, console(), model)
