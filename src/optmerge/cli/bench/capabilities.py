"""`optmerge bench run`, `table`, `figure` and `preview`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from optmerge.cli.bench.options import (
    AsCsv,
    AsJson,
    AsLatex,
    AsMarkdown,
    Device,
    Jobs,
    Keep,
    Methods,
    Quick,
    Records,
    Scratch,
    Zoo,
    chosen_form,
    perform,
)
from optmerge.errors import InputError

RECORDS = Path("results/bench")
Lines = Annotated[
    list[str] | None, typer.Option("--line", help="Line of models: full or lora; repeat.", metavar="LINE")
]
Questions = Annotated[int | None, typer.Option("--n", help="Questions a capability.", min=1)]


def run(
    line: Lines = None,
    sets: Annotated[
        str | None, typer.Option("--set", help="Expert sets, such as 0,1,2; all by default.", metavar="N,…")
    ] = None,
    method: Methods = None,
    quick: Quick = False,
    n: Questions = None,
    zoo: Zoo = None,
    out: Records = RECORDS,
    scratch: Scratch = Path("out/bench"),
    jobs: Jobs = 2,
    device: Device = "cpu",
    keep: Keep = False,
) -> None:
    """Merge with every method, ask everyone everything, and record it; run again to continue.

    Example: `optmerge bench run --line full --quick`
    """
    from optmerge.bench.lines import default_zoo
    from optmerge.bench.trials import examine, orders, output
    from optmerge.bench.trials.entrants import standings
    from optmerge.bench.trials.run import run as run_order
    from optmerge.engine.planning.request import check_device

    check_device(device)
    questions = n or (orders.QUICK if quick else orders.TEST)
    order = orders.order(
        zoo or default_zoo(),
        line or [],
        _numbers(sets),
        method or (orders.QUICK_METHODS if quick else []),
        n=questions,
        quick=quick,
    )
    perform(
        lambda pool, report: run_order(
            order, pool, out, scratch, n=questions, keep=keep, device=device, report=report
        ),
        examine.run,
        lambda results, shown: output.show_scores(standings(results, n=questions), "terminal", shown),
        remarks=order.remarks,
        jobs=jobs,
        out=out,
    )


def table(
    records: Records = RECORDS,
    line: Lines = None,
    n: Questions = None,
    rule: Annotated[
        Literal["fixed", "validation"] | None, typer.Option(help="Only merges whose scale was chosen so.")
    ] = None,
    pairs: Annotated[bool, typer.Option("--pairs", help="Which differences are real, pair by pair.")] = False,
    paper: Annotated[bool, typer.Option("--paper", help="The paper's tables instead of ours.")] = False,
    markdown: AsMarkdown = False,
    csv: AsCsv = False,
    latex: AsLatex = False,
    as_json: AsJson = False,
) -> None:
    """Show the table that the records hold.

    Example: `optmerge bench table --markdown`
    """
    from optmerge.bench.trials import output
    from optmerge.cli.tables import console

    form = chosen_form(markdown=markdown, csv=csv, latex=latex, json=as_json)
    if paper and pairs:
        raise InputError("the paper's answers to single questions aren't published", got="--paper --pairs")
    if paper:
        output.show_paper(form, console())
        return
    show = output.show_pairs if pairs else output.show_scores
    show(output.read(records, line or [], n), form, console(), rule)


def figure(
    records: Records = RECORDS,
    line: Lines = None,
    n: Questions = None,
    out: Annotated[Path, typer.Option(help="Output folder.", metavar="DIR")] = Path("out/figures"),
) -> None:
    """Draw the records: radar, heat map, scale sweeps, cost, and the paper's results beside ours.

    Example: `optmerge bench figure --out out/figures`
    """
    from optmerge.bench.trials import output
    from optmerge.bench.trials.figures import draw

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
    from optmerge.bench.tasks import get

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
