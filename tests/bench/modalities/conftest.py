from __future__ import annotations

from pathlib import Path

import pytest

from optmerge.bench.modalities import training
from optmerge.bench.records import Record
from worlds import modalities as small


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Record]:
    """A zoo of tiny models after two steps each, and the record of their training."""
    out = tmp_path_factory.mktemp("zoo") / "omni"
    return out, training.train(out, stages=small.stages(), size=small.SIZE, threads=1)
