"""What a method may know beyond the deltas of the tensor at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from optmerge.deltas import Delta

SurveyScope = Literal["tensor", "model"]
"""What a survey must have seen before anything can be merged: one tensor, or all tensors of its method."""

Layout = Literal["matrix", "transposed", "stack", "transposed_stack", "flatten", "vector"]


@dataclass(frozen=True)
class Context:
    """What a method may know beyond its deltas.

    Args:
        tensor: name of the tensor; seeds random masks.
        experts: names of the experts, in the order of the deltas; seeds random masks.
        start: flat index, in the whole tensor, of the first element of the slice at hand.
        layout: how a tensor holds its matrices: `matrix` (out, in), `transposed` (in, out), `stack`
            (E, out, in), `transposed_stack` (E, in, out), `flatten` (out, …) as for convolutions, `vector`
            for no matrix at all.
            None decides by the number of dimensions: 2 is a matrix, 3 a stack, more is flattened.
        survey: what the method's own survey found in this tensor, or in all tensors; None without one.
    """

    tensor: str = ""
    experts: tuple[str, ...] = ()
    start: int = 0
    layout: Layout | None = None
    survey: Any = None

    def expert(self, index: int) -> str:
        """Name of an expert; its position where it has none."""
        return self.experts[index] if self.experts else str(index)


class Survey(Protocol):
    """What a method must learn from a whole tensor, or from all its tensors, before it can merge a slice.

    `while survey.begin_pass(): survey.observe(…) for every slice; survey.end_pass()`, then `survey.result()`.
    """

    def begin_pass(self) -> bool:
        """Whether one more pass is needed; called before each pass, and once after the last."""

    def observe(self, deltas: Sequence[Delta], context: Context) -> None:
        """Takes note of one slice, its deltas weighted; called by several threads at once."""

    def end_pass(self) -> None:
        """Called after the last slice of a pass."""

    def result(self) -> Any:
        """What `Context.survey` will hold; called once, when no more pass is needed."""
