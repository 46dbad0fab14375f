"""Tiny models of the modality benchmark."""

from __future__ import annotations

from pathlib import Path

import pytest

from optmerge.bench.records import Record
from worlds import modalities as small


@pytest.fixture(scope="session")
def trained(modality_zoo: Path) -> tuple[Path, Record]:
    """A zoo of tiny models after two steps each, which nobody may change, and their record."""
    return modality_zoo, small.record_of(modality_zoo)
