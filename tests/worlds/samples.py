"""How much of what is exhaustive is tried: a seeded sample by `make test`, all of it by `make test-slow`."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable
from typing import TypeVar

Case = TypeVar("Case")

EVERYTHING = bool(os.environ.get("OPTMERGE_TEST_EVERYTHING"))
"""Whether nothing is left out; `make test-slow` sets it, and runs the tests that ask, marked `sampled`."""


def sample(cases: Iterable[Case], few: int) -> list[Case]:
    """Some of the cases, the same in every run and in their order, or all of them."""
    found = list(cases)
    if EVERYTHING or len(found) <= few:
        return found
    kept = set(random.Random(0).sample(range(len(found)), few))
    return [case for place, case in enumerate(found) if place in kept]


def examples(few: int, many: int) -> int:
    """How many examples a property is tried with."""
    return many if EVERYTHING else few
