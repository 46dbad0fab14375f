"""Models and a recipe for the commands."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from worlds.merges import World, world


@pytest.fixture
def models(tmp_path: Path) -> World:
    return world(tmp_path)


@pytest.fixture
def recipe(models: World) -> str:
    """Path of a recipe that merges them."""
    path = models.root / "recipe.yaml"
    path.write_text(yaml.safe_dump(models.recipe()))
    return str(path)
