"""Tasks whose questions come from a data set on disk: what such a task declares."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from optmerge.bench.tasks._task import LAST, Split
from optmerge.errors import InputError
from optmerge.evaluate.questions import Item, Metric

DATA = "OPTMERGE_DATA"
"""Environment variable that names the folder of all data sets; `data` where it isn't set."""


@dataclass(frozen=True)
class DataSet:
    """A task whose items are read from files.

    Args:
        name: as on the command line and in records, and of the data set's folder.
        title: as in tables.
        version: changes whenever any item or score does.
        types: question types in the order of the tables; empty where the rows name them.
        metrics: name → metric; the first is the one in the tables.
        splits: that the data set has.
        load: (folder of the data set, split) → every item of the split, in the order of the files.
        order: place in the tables.
        trained: whether the lines have an expert of it.
    """

    name: str
    title: str
    version: int
    types: tuple[str, ...]
    metrics: Mapping[str, Metric]
    splits: tuple[Split, ...]
    load: Callable[[Path, Split], Sequence[Item]]
    order: int = LAST
    trained: bool = False

    @property
    def metric(self) -> Metric:
        """The metric that stands in the tables."""
        return next(iter(self.metrics.values()))

    @property
    def folder(self) -> Path:
        """Folder of the data set."""
        return Path(os.environ.get(DATA, "data")) / self.name

    def items(self, split: Split, n: int) -> Iterator[Item]:
        """The first `n` items of a split in an order drawn once, or all; fewer are the beginning of more.

        Raises:
            InputError: the data set isn't there, can't be read, or has no such split.
        """
        if split not in self.splits:
            raise InputError(
                f"{self.title} has no {split} split", where=self.name, expected=" or ".join(self.splits)
            )
        if not self.folder.is_dir():
            raise InputError(
                f"the data set {self.title} isn't here",
                where=self.folder,
                expected="a folder with the data set's own files",
                hint=f"fetch it, or name the folder of all data sets in {DATA}",
            )
        everything = self.load(self.folder, split)
        rng = random.Random(f"{self.name}/{self.version}/{split}")
        order = rng.sample(range(len(everything)), len(everything))
        return (everything[row] for row in order[:n])
