"""Compiled loops merge averages, sums and TIES to the bytes of the general way, and leave the rest to it."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

import optmerge
from optmerge.checkpoints.bfloat16 import narrow, widen
from optmerge.engine.running import fused
from optmerge.errors import InputError
from optmerge.methods._fast import bracket
from worlds.merges import World, contents, weights, world
from worlds.samples import sample

EVERYTHING = {"kinds": ["matrix", "embedding", "head", "norm", "bias", "conv", "other"]}


METHODS: list[Any] = [
    "average",
    "task_arithmetic",
    {"name": "task_arithmetic", "scale": 0.7},
    "dare_task_arithmetic",
    "ties",
    {"name": "ties", "trim": "model"},
    {"name": "ties", "keep": 1.0},
    "dare_ties",
    {"name": "dare_ties", "drop": 0.0, "keep": 0.01},
]
TYPES = [torch.bfloat16, torch.float16, torch.float32]


@pytest.fixture
def models(tmp_path: Path) -> World:
    return stored_as(tmp_path, torch.bfloat16)


def stored_as(root: Path, dtype: torch.dtype) -> World:
    return world(root, base={name: values.to(dtype) for name, values in weights().items()})


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("method", "dtype", "weighted"), sample(product(METHODS, TYPES, [False, True]), 16), ids=str
)
def test_the_compiled_way_gives_the_bytes_of_the_general_way(
    method: Any, dtype: torch.dtype, weighted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = stored_as(tmp_path, dtype)
    recipe = models.recipe(method=method, select=EVERYTHING)
    if weighted:
        pairs = zip(recipe["experts"], (0.5, 1.7, -0.3, 1.0), strict=False)
        recipe["experts"] = [{"model": str(model), "weight": weight} for model, weight in pairs]
    monkeypatch.setattr(bracket, "SAMPLE", 256)  # smaller than most tensors here, as with real ones
    used = []
    merged = fused.FusedSlices.merged

    def counted(self: Any, *arguments: Any) -> Any:
        used.append(arguments)
        return merged(self, *arguments)

    monkeypatch.setattr(fused.FusedSlices, "merged", counted)
    compiled = contents(optmerge.merge(recipe, models.out).path)
    assert used, "the compiled way was not used"
    monkeypatch.setattr(fused.FusedSlices, "fused", lambda *arguments: None)
    general = contents(optmerge.merge(recipe, models.root / "general").path)

    assert compiled["model.safetensors"] == general["model.safetensors"]


@pytest.mark.parametrize("bins", [2, 16, 1 << 16])
def test_thresholds_that_the_sample_misses_are_found_all_the_same(
    bins: int, models: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = models.recipe(method="ties", select=EVERYTHING)
    expected = contents(optmerge.merge(recipe, models.out).path)
    monkeypatch.setattr(bracket, "SAMPLE", 64)
    monkeypatch.setattr(bracket, "BINS", bins)
    monkeypatch.setattr(bracket, "DEVIATIONS", 0.0)
    found = contents(optmerge.merge(recipe, models.root / "missed").path)

    assert found["model.safetensors"] == expected["model.safetensors"]


@pytest.mark.parametrize("method", ["average", "task_arithmetic", "ties", "dare_ties"])
def test_a_nan_is_told_in_the_words_of_the_general_way(
    method: str, models: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = models.recipe(method=method, select=EVERYTHING)
    expert = Path(recipe["experts"][1]) / "model.safetensors"
    damage(expert)
    told = []
    for name in ("compiled", "general"):
        if name == "general":
            monkeypatch.setattr(fused.FusedSlices, "fused", lambda *arguments: None)
        with pytest.raises(InputError) as caught:
            optmerge.merge(recipe, models.root / name)
        told.append(str(caught.value))
        assert not (models.root / name).exists()

    assert told[0] == told[1]
    assert "holds NaN or infinity" in told[0] and str(expert) in told[0]


def damage(file: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(file)
    name = next(name for name, values in tensors.items() if values.ndim == 2 and "layers" in name)
    tensors[name][0, 0] = float("nan")
    save_file(tensors, file, metadata={"format": "pt"})


def test_widening_and_narrowing_are_torchs_conversions() -> None:
    stored = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16)
    finite = stored[torch.isfinite(stored.view(torch.bfloat16).float())]
    bits = torch.empty(finite.numel(), dtype=torch.uint32).numpy()
    assert widen(finite.numpy(), bits)
    assert torch.equal(
        torch.from_numpy(bits).view(torch.float32), finite.view(torch.bfloat16).to(torch.float32)
    )
    generator = torch.Generator().manual_seed(0)
    exponents = torch.randint(-30, 30, (100_000,), generator=generator)
    values = torch.randn(100_000, generator=generator) * 10.0**exponents
    rounded = torch.empty(values.numel(), dtype=torch.uint16)
    assert narrow(values.view(torch.uint32).numpy(), rounded.numpy())
    assert torch.equal(rounded.view(torch.bfloat16), values.to(torch.bfloat16))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_noticed(value: float) -> None:
    stored = torch.tensor([1.0, value, 2.0], dtype=torch.bfloat16).view(torch.uint16)
    assert not widen(stored.numpy(), torch.empty(3, dtype=torch.uint32).numpy())


def test_a_sum_beyond_bfloat16_is_noticed() -> None:
    values = torch.tensor([1.0, 3.4e38])
    assert torch.isinf(values.to(torch.bfloat16)).any()
    assert not narrow(values.view(torch.uint32).numpy(), torch.empty(2, dtype=torch.uint16).numpy())
