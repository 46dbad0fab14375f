"""Jobs of the modality benchmark: which model is asked what, with which of the inputs given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

from optmerge.bench import records
from optmerge.bench.modalities import clips
from optmerge.bench.modalities.exam import Needs
from optmerge.bench.modalities.templates import NEEDS
from optmerge.bench.modalities.training import START
from optmerge.bench.modalities.world import MODALITIES
from optmerge.bench.trials.jobs import Job, fitting, merges
from optmerge.bench.trials.trials import BASE, Trial
from optmerge.errors import CheckpointError
from optmerge.omni.compose import NAIVE_MC
from optmerge.omni.damc import DAMC

LINE = "lora"
"""The one line of models there is."""
TEST, VALIDATION, QUICK = 1000, 150, 100
"""Questions with the same needs: of the test, of the choice of a scale, and of a quick run."""
CLASSICAL = (NAIVE_MC, DAMC)
"""Merges that only compositions have, without a scale."""
QUICK_METHODS = (NAIVE_MC, DAMC, "task_arithmetic", "ties", "optmerge")
INPUTS: tuple[Needs, ...] = tuple(
    given for size in range(len(MODALITIES) + 1) for given in combinations(MODALITIES, size)
)
"""Every subset of what may be given."""
_NOTHING = "nothing"


@dataclass(frozen=True)
class GivenTask:
    """Questions with the same needs, asked with the same inputs.

    Args:
        needs: the modalities without one of which a question can't be answered.
        given: the modalities that the model is given.
    """

    needs: Needs
    given: Needs

    def __str__(self) -> str:
        """The task's name in records: `audio+video|audio`."""
        return f"{'+'.join(self.needs)}|{self.inputs}"

    @property
    def inputs(self) -> str:
        """What is given, in tables: `audio+video`, or `nothing`."""
        return "+".join(self.given) or _NOTHING

    @classmethod
    def named(cls, name: str) -> GivenTask:
        """The task that has this name."""
        return _BY_NAME[name]


_BY_NAME = {str(task): task for task in (GivenTask(needs, given) for needs in NEEDS for given in INPUTS)}


def jobs(
    zoo: Path, methods: Sequence[str] = (), *, n: int = TEST, quick: bool = False
) -> tuple[list[Job], list[str]]:
    """The jobs of a run, in the order in which results are wanted; and what is left out, in words.

    Args:
        zoo: with base, start and experts, as training leaves them.
        methods: names; every registered one, NaiveMC and DAMC if empty.
        n: test questions with the same needs.
        quick: merge by the defaults, scales included, and sweep none.

    Raises:
        InputError: a method is unknown, or doesn't take three experts.
        CheckpointError: a model is missing.
    """
    names, remarks = _methods(methods)
    known = hashes(zoo)
    trial = Trial(
        LINE, "base", BASE, None, "test", n, tasks([()]), {BASE: known[BASE]}, benchmark="modalities"
    )
    found = [Job(trial, zoo / BASE, model=zoo / BASE)]
    for modality in MODALITIES:
        weights = {START: known[START], modality: known[modality]}
        given = tasks([(), (modality,)])
        own = replace(trial, kind="expert", model=modality, tasks=given, weights=weights)
        found.append(Job(own, zoo / START, model=zoo / modality))
    merged = replace(trial, kind="merge", weights=known, tasks=tasks(INPUTS))
    experts: dict[str, Path] = {modality: zoo / modality for modality in MODALITIES}
    for name in names:
        found += _merges(Job(replace(merged, model=name), zoo / BASE, experts=experts), sweep=not quick)
    return sorted(found, key=lambda job: job.trial.split == "validation"), remarks


def tasks(inputs: Iterable[Needs]) -> Mapping[str, int]:
    """Questions of all needs with each of these inputs given: name → version."""
    return {str(GivenTask(needs, given)): clips.VERSION for given in inputs for needs in NEEDS}


def _methods(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The methods that compose three experts, and a remark on each that doesn't."""
    if names:
        if named := [name for name in names if name not in CLASSICAL]:
            fitting(named, len(MODALITIES))
        return list(dict.fromkeys(names)), []
    fit, remarks = fitting((), len(MODALITIES))
    # The average of adapters' changes is what NaiveMC is.
    return [*(name for name in fit if name != "average"), *CLASSICAL], remarks


def _merges(job: Job, *, sweep: bool) -> Iterator[Job]:
    """A method's test at its default scale, and its sweep where it has a scale to choose."""
    if job.trial.model in CLASSICAL:
        yield replace(job, trial=replace(job.trial, default=True))
        return
    validation = tasks([MODALITIES]) if sweep else None
    yield from merges(job, adapters=True, validation=validation, n=min(VALIDATION, job.trial.n))


def hashes(zoo: Path) -> dict[str, str]:
    """Role → SHA-256 of the weights.

    Raises:
        CheckpointError: a model is missing.
    """
    names = (BASE, START, *MODALITIES)
    for name in names:
        if not any((zoo / name).glob("*.safetensors")):
            raise CheckpointError(
                "a model of the modality benchmark is missing",
                where=zoo / name,
                expected="a checkpoint or an adapter",
                hint=f"make it with `optmerge omni train --out {zoo}`, or correct --zoo",
            )
    return {name: records.weights_hash(zoo / name) for name in names}
