"""Identities in optmerge.json tell inputs apart by contents, however the merge was cut or interrupted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import optmerge
from optmerge import Options
from optmerge.engine.plan import TensorPlan
from optmerge.engine.running import budget
from worlds.merges import NORM, QUERY, World, contents, load, save, save_adapter, watching, world


@pytest.fixture
def models(tmp_path: Path) -> World:
    return world(tmp_path)


def recorded(out: Path) -> dict[str, Any]:
    found = json.loads((out / "optmerge.json").read_text())
    return {"base": found["base"], **{each["name"]: each for each in found["experts"]}}


def identities(models: World, out: str, **changes: Any) -> dict[str, str]:
    optmerge.merge(models.recipe(**changes), models.root / out)
    return {name: each["identity"] for name, each in recorded(models.root / out).items()}


@pytest.mark.parametrize("method", ["average", "ties", "dare_ties", "tsv", "task_arithmetic"])
@pytest.mark.parametrize("name", [QUERY, NORM])
def test_one_changed_value_anywhere_changes_its_models_identity_alone(
    method: str, name: str, models: World
) -> None:
    before = identities(models, "before", method=method)
    tensors = load(models.experts[1])
    tensors[name].flatten()[-1] += 1
    save(models.experts[1], tensors)
    after = identities(models, "after", method=method)

    assert len(set(before.values())) == 3
    assert [each for each in before if before[each] != after[each]] == ["e1"]


@pytest.mark.parametrize("method", ["average", "ties", "task_arithmetic"])
def test_slices_and_blocks_do_not_change_an_identity(
    method: str, models: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = identities(models, "whole", method=method)
    for elements in (1, 7, 24):
        monkeypatch.setattr(budget, "SLICE_ELEMENTS", elements)
        assert identities(models, f"sliced-{elements}", method=method) == whole


def test_the_same_tensors_in_other_files_are_the_same_model(models: World) -> None:
    before = identities(models, "before")
    folder = models.experts[0]
    (folder / "model.safetensors").rename(folder / "weights.safetensors")

    assert identities(models, "after") == before


def test_adapters_are_told_apart_by_values_and_configuration(tmp_path: Path) -> None:
    models = world(tmp_path, experts=0)
    folders = [save_adapter(tmp_path / f"a{i}", (QUERY,), seed=i % 2) for i in range(3)]
    config = json.loads((folders[2] / "adapter_config.json").read_text())
    (folders[2] / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 99}))
    found = identities(models, "out", experts=list(map(str, folders)))

    assert len(set(found.values())) == 4


def test_an_identity_says_what_it_covers(models: World) -> None:
    optmerge.merge(models.recipe(method="average"), models.out)
    found = recorded(models.out)
    count = len(models.tensors())

    assert found["base"]["covers"] == {"tensors": count - 6, "of": count}  # six are averaged
    assert found["e0"]["covers"] == {"tensors": count, "of": count}


def test_a_merged_adapter_does_not_read_the_base_for_its_identity(tmp_path: Path) -> None:
    models = world(tmp_path, experts=0)
    experts = [str(save_adapter(tmp_path / f"a{seed}", seed=seed)) for seed in (0, 1)]
    optmerge.merge(models.recipe(experts=experts, output="adapter"), models.out)

    assert recorded(models.out)["base"]["covers"]["tensors"] == 0


@pytest.mark.parametrize("journal", ["kept", "without digests", "hostile"])
def test_a_resumed_merge_ends_with_the_same_provenance(
    journal: str, models: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = contents(optmerge.merge(models.recipe(), models.root / "whole").path)
    monkeypatch.setattr("optmerge.engine.output.dense.SYNC_SECONDS", -1.0)
    seen: list[str] = []

    def stop(tensor: TensorPlan, size: int) -> None:
        seen.append("")
        if len(seen) > 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optmerge.merge(models.recipe(), models.out, watch=watching(stop))
    file = models.out / ".optmerge" / "journal.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert any(line.get("digests", {}).get("e0") for line in lines)
    if journal != "kept":
        for line in lines:
            held = line.pop("digests", None)
            if journal == "hostile" and held:
                line["digests"] = {"base": 3, "e0": {QUERY: "no digest", "gone": "0" * 64}, "nobody": {}}
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    resumed = optmerge.merge(models.recipe(), models.out, Options(mode="resume"))

    assert resumed.resumed_tensors and contents(resumed.path) == whole


# --- where things lie


def test_outputs_name_models_and_no_path(models: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(models.root)
    (models.root / "models").mkdir()
    models.base.rename(models.root / "models" / "base")
    monkeypatch.setenv("HOME", str(models.root))
    for base in ("models/base", "./models/base", "~/models/base", str(models.root / "models" / "base")):
        out = models.root / "out" / base.replace("/", "_")
        optmerge.merge({**models.recipe(base=base), "side_files": "./models/base"}, out)
        for name in ("README.md", "optmerge.json"):
            words = (out / name).read_text().replace("path/to/", "")
            assert "models/base" not in words and str(models.root) not in words, base


def test_verify_finds_a_base_that_lies_elsewhere_and_knows_it_by_its_headers(models: World) -> None:
    elsewhere = models.root / "a" / "b" / "base"
    elsewhere.parent.mkdir(parents=True)
    models.base.rename(elsewhere)
    optmerge.merge(models.recipe(base=str(elsewhere)), models.out)

    def deltas() -> bool | None:
        checks = optmerge.verify(models.out, load=False).checks
        return next(check.ok for check in checks if check.name == "deltas")

    assert deltas() is True
    save(elsewhere, {"w": torch.ones(3)})
    assert deltas() is None
