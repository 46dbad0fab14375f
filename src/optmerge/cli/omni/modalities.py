"""`optmerge omni train`, `run`, `table` and `demo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from optmerge.cli.bench.options import (
    AsCsv,
    AsJson,
    AsLatex,
    AsMarkdown,
    Jobs,
    Keep,
    Methods,
    Quick,
    Records,
    Scratch,
    Seed,
    Threads,
    Zoo,
    chosen_form,
    perform,
)
from optmerge.cli.options import Settings

if TYPE_CHECKING:
    from rich.console import Console

    from optmerge.bench.trials.cells import Result

RECORDS = Path("results/omni")
Questions = Annotated[int | None, typer.Option("--n", help="Questions with the same needs.", min=1)]


def train(
    out: Annotated[Path, typer.Option(help="Output folder.", metavar="DIR")] = Path("out/omni"),
    seed: Seed = 0,
    stage: Annotated[
        list[str] | None,
        typer.Option(help="Only this stage: base, audio-tower, …, audio, video, image; may be repeated."),
    ] = None,
    threads: Threads = 2,
) -> None:
    """Train a base that reads, towers and three experts; run again to continue after an interruption.

    Base and towers may be trained at the same time, a stage each, and so may the experts.

    Example: `optmerge omni train --seed 0 --out out/omni`
    """
    from optmerge.bench.modalities import training

    training.train(out, seed=seed, only=stage or (), threads=threads)


def run(
    method: Methods = None,
    quick: Quick = False,
    n: Questions = None,
    zoo: Zoo = None,
    out: Records = RECORDS,
    scratch: Scratch = Path("out/omni-run"),
    jobs: Jobs = 2,
    keep: Keep = False,
) -> None:
    """Compose with every method, ask everyone with every subset of the inputs; run again to continue.

    Example: `optmerge omni run --quick`
    """
    from optmerge.bench.lines import default_zoo
    from optmerge.bench.modalities import examine, orders, output
    from optmerge.bench.modalities.rows import standing
    from optmerge.bench.trials.run import run as run_order

    questions = n or (orders.QUICK if quick else orders.TEST)
    chosen = method or (orders.QUICK_METHODS if quick else ())
    order = orders.order(zoo or default_zoo() / "omni", chosen, n=questions, quick=quick)

    def show(results: list[Result], shown: Console) -> None:
        if (found := standing(results, questions)) is not None:
            output.show_all(found, "terminal", shown)

    perform(
        lambda pool, report: run_order(
            order,
            pool,
            out,
            scratch,
            n=questions,
            keep=keep,
            report=report,
            kind=orders.KIND,
            test_of=orders.test_of,
        ),
        examine.run,
        show,
        remarks=order.remarks,
        jobs=jobs,
        out=out,
    )


def table(
    records: Records = RECORDS,
    n: Questions = None,
    model: Annotated[
        str | None,
        typer.Option(help="Whose inputs are taken away; the best merge by default.", metavar="NAME"),
    ] = None,
    paper: Annotated[bool, typer.Option("--paper", help="The paper's rows, by family.")] = False,
    markdown: AsMarkdown = False,
    csv: AsCsv = False,
    latex: AsLatex = False,
    as_json: AsJson = False,
) -> None:
    """Show the tables that the records hold: complementarity, what merging costs, inputs taken away.

    Example: `optmerge omni table --markdown`
    """
    from optmerge.bench.modalities import output
    from optmerge.cli.tables import console

    form = chosen_form(markdown=markdown, csv=csv, latex=latex, json=as_json)
    found = output.read(records, n)
    if paper:
        output.show_row_form(found, form, console())
    else:
        output.show_all(found, form, console(), model)


def demo(
    zoo: Zoo = None,
    out: Annotated[Path, typer.Option(help="Output folder.", metavar="DIR")] = Path("out/demo-omni"),
    method: Annotated[
        str | None,
        typer.Option(help="Any that `optmerge omni compose` takes; the best by default.", metavar="NAME"),
    ] = None,
    settings: Settings = None,
    clip: Annotated[int | None, typer.Option(help="Another clip of the test.", min=0)] = None,
) -> None:
    """Compose the three experts, ask everyone about one clip, and write its story as a page.

    Example: `optmerge omni demo --out out/demo-omni`
    """
    from optmerge.bench.modalities.demo import run, story

    number = story.CLIP if clip is None else clip
    told = run.run(out, zoo=zoo, method=method or run.METHOD, settings=settings or (), clip=number)
    for speaker, right in zip(told.speakers, told.right, strict=True):
        print(f"{speaker.name}: {right} of {len(told.exchanges)} right")
    print(f"wrote {out / run.PAGE}")
