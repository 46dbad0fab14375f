"""Types of method parameters, with their domains; the registry reads them from signatures."""

from __future__ import annotations

from fractions import Fraction as Exact
from typing import Annotated

from pydantic import Field

Fraction = Annotated[float, Field(gt=0, le=1)]
"""In (0, 1]."""

DropRate = Annotated[float, Field(ge=0, lt=1)]
"""In [0, 1)."""

Momentum = Annotated[float, Field(ge=0, lt=1)]
"""In [0, 1)."""

Positive = Annotated[float, Field(gt=0)]
"""A positive number."""

UnitInterval = Annotated[float, Field(ge=0, le=1)]
"""In [0, 1]."""

Steps = Annotated[int, Field(ge=0)]
"""A number of optimisation steps."""

Seed = Annotated[int, Field(ge=0)]
"""A seed of random masks."""


def share(fraction: float, size: int) -> Exact:
    """fraction·size with the fraction as it is written in decimal: 0.1 of 10 is 1, 0.29 of 100 is 29."""
    return Exact(str(fraction)) * size
