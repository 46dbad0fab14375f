"""What every test may ask for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

Write = Callable[..., Path]


@pytest.fixture
def recipe_file(tmp_path: Path) -> Write:
    """Writes keyword arguments as a recipe; returns its path."""

    def write(name: str = "recipe.yaml", **recipe: object) -> Path:
        path = tmp_path / name
        path.write_text(yaml.safe_dump(recipe), "utf-8")
        return path

    return write
