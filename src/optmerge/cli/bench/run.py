"""`optmerge bench run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from optmerge.cli.bench._options import (
    OUT,
    Device,
    Jobs,
    Keep,
    Lines,
    Methods,
    Questions,
    Quick,
    Scratch,
    Zoo,
    folders,
    perform,
)
from optmerge.errors import InputError


def command(
    line: Lines = None,
    sets: Annotated[
        str | None, typer.Option("--set", help="Expert sets, such as 0,1,2; all by default.", metavar="N,…")
    ] = None,
    method: Methods = None,
    quick: Quick = False,
    n: Questions = None,
    zoo: Zoo = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the records; out/bench if not given.", metavar="DIR"),
    ] = None,
    scratch: Scratch = OUT / "scratch",
    jobs: Jobs = 2,
    device: Device = "cpu",
    keep: Keep = False,
) -> None:
    """Merge with every method, ask everyone everything, and record it; run again to continue.

    What the shipped records hold isn't worked out again, unless --out names a folder of its own.

    Example: `optmerge bench run --line full --quick`
    """
    from optmerge.bench.lines import default_zoo
    from optmerge.bench.trials import examine, output
    from optmerge.bench.trials import jobs as listing
    from optmerge.bench.trials.line_scores import line_scores
    from optmerge.engine.planning.request import check_device

    check_device(device)
    questions = n or (listing.QUICK if quick else listing.TEST)
    found, remarks = listing.jobs(
        zoo or default_zoo(),
        line or [],
        _numbers(sets),
        method or (listing.QUICK_METHODS if quick else []),
        n=questions,
        quick=quick,
    )
    perform(
        found,
        remarks,
        examine.run,
        lambda results, shown: output.show_scores(line_scores(results, n=questions), "terminal", shown),
        known=folders("bench", out, OUT),
        out=out or OUT,
        scratch=scratch,
        processes=jobs,
        keep=keep,
        device=device,
    )


def _numbers(text: str | None) -> list[int]:
    """`0,1,2` as numbers."""
    parts = [part.strip() for part in (text or "").split(",") if part.strip()]
    if not all(part.isdecimal() for part in parts):
        raise InputError("expert sets are numbers", where="--set", got=text, expected="such as 0,1,2")
    return list(dict.fromkeys(map(int, parts)))
