from __future__ import annotations

import json
from pathlib import Path

import pytest

import optmerge
from optmerge import Options
from worlds.merges import World, world


@pytest.fixture
def models(tmp_path: Path) -> World:
    return world(tmp_path)


def recorded(out: Path) -> dict[str, str] | None:
    found: dict[str, str] | None = json.loads((out / "optmerge.json").read_text()).get("content_hashes")
    return found


def test_content_hashes_are_recorded_when_asked_for(models: World) -> None:
    optmerge.merge(models.recipe(), models.out)
    optmerge.merge(models.recipe(), models.root / "hashed", Options(content_hashes=True))
    plain, hashes = recorded(models.out), recorded(models.root / "hashed")

    assert plain is None
    assert hashes is not None and len(set(hashes.values())) == len(hashes) == 1 + len(
        models.recipe()["experts"]
    )


def test_a_changed_byte_changes_only_its_models_hash(models: World) -> None:
    recipe = models.recipe(method="average")
    optmerge.merge(recipe, models.out, Options(content_hashes=True))
    file = Path(str(recipe["experts"][0])) / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    optmerge.merge(recipe, models.root / "second", Options(content_hashes=True))
    before, after = recorded(models.out), recorded(models.root / "second")

    assert before is not None and after is not None
    assert sum(before[name] != after[name] for name in before) == 1
