"""A job given to a process: what it is, where its traces go, and that it ends with a record."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from optmerge.bench.trials import cells
from optmerge.bench.trials.cells import Result
from optmerge.bench.trials.orders import Job
from optmerge.errors import OptMergeError


@dataclass(frozen=True)
class Errand:
    """A job and where its traces go.

    Args:
        job: what to do.
        out: folder of the records.
        scratch: folder of merged models while they are asked.
        keep: leave merged models there, and what everyone said.
        device: of torch, where models are merged and answer.
    """

    job: Job
    out: Path
    scratch: Path
    keep: bool = False
    device: str = "cpu"

    @property
    def folder(self) -> Path:
        """Of what is made for this job; its own, so that two can't meet."""
        cell = self.job.cell
        return self.scratch / f"{cell.line}-{cell.model.replace(':', '-')}-{cell.identity()[:12]}"

    @property
    def model(self) -> Path:
        """Folder of the merged model."""
        return self.folder / "model"

    @property
    def answers(self) -> Path:
        """File of what was asked, said and right."""
        return self.folder / "answers.json"


def recorded(errand: Errand, examine: Callable[[Errand], Result], kind: str = cells.CAPABILITIES) -> Result:
    """Does a job and writes its record; whatever goes wrong goes into the record.

    Args:
        errand: the job.
        examine: does it.
        kind: of the benchmark's records.
    """
    shutil.rmtree(errand.folder, ignore_errors=True)  # of a run that was killed
    try:
        result = examine(errand)
    except Exception as problem:  # one broken merge mustn't end a run of hours
        result = failed(errand.job, problem)
    if not errand.keep:
        shutil.rmtree(errand.folder, ignore_errors=True)
    cells.write(result, errand.out, kind)
    return result


def failed(job: Job, problem: Exception) -> Result:
    """The result of a job that came to nothing."""
    words = str(problem) if isinstance(problem, OptMergeError) else f"{type(problem).__name__}: {problem}"
    return Result(job.cell, {}, {}, error=words)
