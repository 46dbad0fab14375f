"""`optmerge bench …`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from optmerge.cli.bench import capabilities as bench_suite
from optmerge.cli.bench.options import Seed, Threads

app = typer.Typer(help="Train experts, evaluate them, and compare merging methods.", no_args_is_help=True)
for _command in (bench_suite.run, bench_suite.table, bench_suite.figure, bench_suite.preview):
    app.command()(_command)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Output folder.", metavar="DIR")] = Path("out/demo"),
    line: Annotated[str, typer.Option(help="Line of models: full or lora.")] = "full",
    zoo: Annotated[
        Path | None, typer.Option(help="Other models than the shipped ones.", metavar="DIR")
    ] = None,
    n: Annotated[
        int | None, typer.Option("--n", help="Questions a capability; 60 by default.", min=1)
    ] = None,
) -> None:
    """Merge the five shipped experts with several methods and ask everyone the same test questions.

    Example: `optmerge bench demo`
    """
    from optmerge.bench.demo.run import QUESTIONS, run

    run(out, line=line, zoo=zoo, n=n or QUESTIONS)


@app.command()
def train(
    line: Annotated[str, typer.Option(help="Line of models: full or lora.")] = "full",
    out: Annotated[
        Path | None, typer.Option(help="Output folder; out/LINE if not given.", metavar="DIR")
    ] = None,
    seed: Seed = 0,
    stage: Annotated[
        list[str] | None,
        typer.Option(help="Only this stage: sight, base, a task, mixture; may be repeated."),
    ] = None,
    regime: Annotated[
        Literal["gentle", "far"], typer.Option(help="Experts are held near the base, or go far from it.")
    ] = "gentle",
    base: Annotated[
        Path | None, typer.Option(help="Train another set of experts, from this base.", metavar="DIR")
    ] = None,
    teacher: Annotated[
        Path | None,
        typer.Option(
            help="The lora line after answering, whose language model the full line takes over.",
            metavar="DIR",
        ),
    ] = None,
    threads: Threads = 2,
) -> None:
    """Train a base, its experts and a mixture from nothing; run again to continue after an interruption.

    Example: `optmerge bench train --line lora --seed 0 --out out/lora`
    """
    from optmerge.bench.training.train import train as train_line

    train_line(
        line,
        out or Path("out") / line,
        seed=seed,
        only=stage or (),
        regime=regime,
        base=base,
        teacher=teacher,
        threads=threads,
    )
