"""`optmerge bench …`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from optmerge.cli import bench_suite
from optmerge.cli.benchmarks import Seed, Threads
from optmerge.errors import InputError, did_you_mean

app = typer.Typer(help="Train experts, evaluate them, and compare merging methods.", no_args_is_help=True)
for _command in (bench_suite.run, bench_suite.table, bench_suite.figure, bench_suite.preview):
    app.command()(_command)

LINES = ("full", "lora", "easy-vqa")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Output folder.", metavar="DIR")] = Path("out/demo"),
    zoo: Annotated[
        Path | None, typer.Option(help="Other models than the shipped ones.", metavar="DIR")
    ] = None,
    per_type: Annotated[int, typer.Option(help="Test questions of each type; 0 asks all.", min=0)] = 300,
    seed: Annotated[int, typer.Option(help="Seed of the questions asked.", min=0)] = 0,
) -> None:
    """Merge the three shipped easy-VQA experts and compare everyone on the test questions.

    Example: `optmerge bench demo`
    """
    from optmerge.bench.demo import run

    run(out, zoo=zoo, per_type=per_type or None, seed=seed)


@app.command()
def train(
    line: Annotated[str, typer.Option(help=f"What to train: {', '.join(LINES)}.")] = LINES[0],
    out: Annotated[
        Path | None, typer.Option(help="Output folder; out/LINE if not given.", metavar="DIR")
    ] = None,
    seed: Seed = 0,
    stage: Annotated[
        list[str] | None, typer.Option(help="Only this stage: base, a task, mixture; may be repeated.")
    ] = None,
    base: Annotated[
        Path | None, typer.Option(help="Start another set of experts from this base.", metavar="DIR")
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
    if line not in LINES:
        raise InputError(f"unknown line {line!r}", where="--line", hint=did_you_mean(line, LINES))
    out = out or Path("out") / line.replace("-", "_")
    if line == "easy-vqa":
        from optmerge.bench.training import train_easy_vqa

        train_easy_vqa(out, seed=seed, threads=threads)
        return
    from optmerge.bench import stages

    stages.train(line, out, seed=seed, only=stage or (), base=base, teacher=teacher, threads=threads)
