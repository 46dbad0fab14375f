"""Every tiny model, built and saved once."""

from __future__ import annotations

from pathlib import Path

import pytest

from worlds.models import TINY
from worlds.saved import Saved, save


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("architectures")


@pytest.fixture(params=sorted(TINY))
def saved(request: pytest.FixtureRequest, folders: Path) -> Saved:
    return save(request.param, folders / request.param)
