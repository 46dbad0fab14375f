"""`optmerge omni train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from optmerge.cli.bench._options import Seed, Threads


def command(
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
