"""The benchmark's workers without their processes, whose imports take seconds each."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Generic, TypeVar

Item = TypeVar("Item")
Value = TypeVar("Value")


class Workers(Generic[Item, Value]):
    """Stands in for `optmerge.bench.trials.workers.Workers`: an item is done when it is taken."""

    def __init__(self, function: Callable[[Item], Value], number: int) -> None:
        self.number = number
        self._function = function
        self._given: list[Item] = []

    def __enter__(self) -> Workers[Item, Value]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._given.clear()

    @property
    def full(self) -> bool:
        return len(self._given) >= self.number

    @property
    def busy(self) -> bool:
        return bool(self._given)

    def give(self, item: Item) -> None:
        self._given.append(item)

    def take(self) -> tuple[Item, Value]:
        item = self._given.pop(0)
        return item, self._function(item)
