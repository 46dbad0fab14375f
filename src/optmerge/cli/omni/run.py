"""`optmerge omni run`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from optmerge.cli.bench._options import Jobs, Keep, Methods, Quick, Scratch, Zoo, folders, perform
from optmerge.cli.omni._options import OUT, Questions

if TYPE_CHECKING:
    from rich.console import Console

    from optmerge.bench.trials.trials import TrialResult


def command(
    method: Methods = None,
    quick: Quick = False,
    n: Questions = None,
    zoo: Zoo = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the records; out/omni-run if not given.", metavar="DIR"),
    ] = None,
    scratch: Scratch = OUT / "scratch",
    jobs: Jobs = 2,
    keep: Keep = False,
) -> None:
    """Compose with every method, ask everyone with every subset of the inputs; run again to continue.

    What the shipped records hold isn't worked out again, unless --out names a folder of its own.

    Example: `optmerge omni run --quick`
    """
    from optmerge.bench.lines import default_zoo
    from optmerge.bench.modalities import examine, output
    from optmerge.bench.modalities import jobs as listing
    from optmerge.bench.modalities.rows import scores_of_modalities

    questions = n or (listing.QUICK if quick else listing.TEST)
    chosen = method or (listing.QUICK_METHODS if quick else ())
    found, remarks = listing.jobs(zoo or default_zoo() / "omni", chosen, n=questions, quick=quick)

    def show(results: list[TrialResult], shown: Console) -> None:
        if (scores := scores_of_modalities(results, questions)) is not None:
            output.show_all(scores, "terminal", shown)

    perform(
        found,
        remarks,
        examine.run,
        show,
        known=folders("omni", out, OUT),
        out=out or OUT,
        scratch=scratch,
        processes=jobs,
        keep=keep,
    )
