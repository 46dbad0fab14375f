"""Merges of two experts made at random, and a picture to ask them about."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

import optmerge


@pytest.fixture(scope="package")
def merged(zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Line → a dense merge; `adapter` → a merged adapter of the lora line; `LINE-base` → the line's base."""
    found = {}
    for line in ("full", "lora"):
        root = tmp_path_factory.mktemp(line)
        base, experts = zoo / line / "base", zoo / line / "experts" / "0"
        recipe = {
            "base": str(base),
            "experts": [str(experts / "vqa"), str(experts / "ocr")],
            "method": "average",
        }
        found |= {line: optmerge.merge(recipe, root / "merged").path, f"{line}-base": base}
        if line == "lora":
            found["adapter"] = optmerge.merge({**recipe, "output": "adapter"}, root / "adapter").path
    return found


@pytest.fixture(scope="package")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "star.png"
    Image.radial_gradient("L").resize((112, 112)).convert("RGB").save(path)
    return path
