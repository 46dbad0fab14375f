"""`optmerge bench train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from optmerge.cli.bench._options import Seed, Threads


def command(
    line: Annotated[str, typer.Option(help="Line of models, such as full or lora.")] = "full",
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
    from optmerge.bench.training.train import train

    train(
        line,
        out or Path("out") / line,
        seed=seed,
        only=stage or (),
        regime=regime,
        base=base,
        teacher=teacher,
        threads=threads,
    )
