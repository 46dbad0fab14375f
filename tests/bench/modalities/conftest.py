"""Tiny models of the modality benchmark."""

from __future__ import annotations

from pathlib import Path

import pytest

from optmerge.bench.modalities import exam
from optmerge.bench.modalities.demo import make_page
from optmerge.bench.records import Record
from worlds import modalities as small


@pytest.fixture
def short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models at random, which never stop, say less."""
    for module in (exam, make_page):
        monkeypatch.setattr(module, "WORKED_TOKENS", 3)


@pytest.fixture(scope="session")
def trained(modality_zoo: Path) -> tuple[Path, Record]:
    """A zoo of tiny models after two steps each, which nobody may change, and their record."""
    return modality_zoo, small.record_of(modality_zoo)
