"""What the benchmark's tests share."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from optmerge.bench.lines.tiny import tiny_models
from optmerge.bench.lines.tiny.family import Processor, TinySize
from worlds import lines as tiny_lines
from worlds import random_zoo


@pytest.fixture(scope="session")
def tiny() -> TinySize:
    return tiny_lines.SIZE


@pytest.fixture(scope="session")
def processors() -> Mapping[str, Processor]:
    """Line → processor of a tiny model."""
    return {line: random_zoo.make_processor(line, tiny_lines.SIZE) for line in tiny_models.LINES}
