from collections.abc import Mapping

import pytest

from optmerge.bench.lines import checkpoint
from optmerge.bench.lines.family import Processor, Size

TINY = Size(
    patch=28, merge=2, vision_width=32, vision_layers=1, width=32, layers=1, heads=1, groups=1, mlp=32
)
"""A line's model in its smallest shape: four image tokens."""


@pytest.fixture(scope="session")
def tiny() -> Size:
    return TINY


@pytest.fixture(scope="session")
def processors() -> Mapping[str, Processor]:
    """Line → processor of a tiny model."""
    return {line: checkpoint.processor(line, TINY) for line in checkpoint.LINES}
