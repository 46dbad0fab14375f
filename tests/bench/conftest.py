from collections.abc import Mapping

import pytest

import tiny_lines
from optmerge.bench.lines import checkpoint
from optmerge.bench.lines.family import Processor, Size


@pytest.fixture(scope="session")
def tiny() -> Size:
    return tiny_lines.SIZE


@pytest.fixture(scope="session")
def processors() -> Mapping[str, Processor]:
    """Line → processor of a tiny model."""
    return {line: checkpoint.processor(line, tiny_lines.SIZE) for line in checkpoint.LINES}
