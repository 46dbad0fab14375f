"""Merges of barely trained experts, and a picture to ask them about."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import pytest
from PIL import Image

import optmerge
from optmerge.bench.lines.tiny import tokenizer
from optmerge.bench.training.train import train
from worlds import lines as tiny_lines
from worlds import random_zoo


@pytest.fixture(scope="package")
def merged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Line → a dense merge of two barely trained experts; line-adapter → a merged adapter."""
    found = {}
    for line in ("full", "lora"):
        root = tmp_path_factory.mktemp(line)
        stages = tiny_lines.stages(line, ("base", "vqa", "ocr"))
        with patch.object(tokenizer, "texts", random_zoo.FEW_TEXTS):  # all of a line's take ten seconds
            train(line, root, stages=stages, size=tiny_lines.SIZE, threads=1)
        recipe = {
            "base": str(root / "base"),
            "experts": [str(root / "vqa"), str(root / "ocr")],
            "method": "average",
        }
        found[line] = optmerge.merge(recipe, root / "merged").path
        if line == "lora":
            found["adapter"] = optmerge.merge({**recipe, "output": "adapter"}, root / "adapter").path
    return found


@pytest.fixture(scope="package")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "star.png"
    Image.radial_gradient("L").resize((112, 112)).convert("RGB").save(path)
    return path
