"""Two models compared: what is told apart, and what is the same by another name."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from optmerge.engine import diff as module
from optmerge.engine.diff import Difference, Status, TensorDifference, diff, parts
from optmerge.errors import AdapterError, CheckpointError, InputError
from worlds.merges import (
    CONFIG,
    EMBEDDING,
    HEAD,
    NORM,
    QUERY,
    TOKENIZER,
    UP,
    Tensors,
    World,
    save,
    save_adapter,
    weights,
    world,
)
from worlds.samples import examples


@pytest.fixture
def models(tmp_path: Path) -> World:
    return world(tmp_path)


def of(found: Difference, name: str) -> TensorDifference:
    return next(each for each in found.tensors if each.name == name)


def pair(root: Path, a: Tensors, b: Tensors, **options: Any) -> Difference:
    return diff(save(root / "a", a, **options), save(root / "b", b, **options))


def test_a_model_is_equal_to_itself_and_to_its_copy_in_shards(models: World) -> None:
    tensors = models.tensors()
    names = list(tensors)
    folder = models.root / "sharded"
    folder.mkdir()
    weight_map = {}
    for index, some in enumerate((names[:3], names[3:])):
        file = f"model-0000{index + 1}-of-00002.safetensors"
        save_file({name: tensors[name] for name in some}, folder / file)
        weight_map |= dict.fromkeys(some, file)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

    for other in (models.base, folder):
        found = diff(models.base, other)
        assert found.equal
        assert found.counts()["equal"] == len(tensors)


def test_the_figures_are_those_of_the_whole_tensors(models: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", 7)
    ours, theirs = models.tensors(), models.tensors(0)
    found = diff(models.base, models.experts[0])

    for name, tensor in ours.items():
        gap = theirs[name].double() - tensor.double()
        each = of(found, name)
        assert each.relative == pytest.approx(float(gap.norm() / tensor.double().norm()), rel=1e-12)
        assert each.largest == float(gap.abs().max())
        assert each.changed == int((gap != 0).sum())
        assert each.a is not None and each.a.norm == pytest.approx(float(tensor.double().norm()), rel=1e-12)
        assert each.b is not None and each.b.norm == pytest.approx(
            float(theirs[name].double().norm()), rel=1e-12
        )
    relatives = [each.relative for each in found.tensors]
    assert relatives == sorted(relatives, key=lambda each: -(each or 0))


def test_parts_put_the_tensors_of_a_component_together(models: World) -> None:
    ours, theirs = models.tensors(), models.tensors(0)
    matrices = [name for name in ours if "proj" in name]
    gap = math.sqrt(sum(float((theirs[name] - ours[name]).double().square().sum()) for name in matrices))
    whole = math.sqrt(sum(float(ours[name].double().square().sum()) for name in matrices))
    part = next(each for each in parts(diff(models.base, models.experts[0]).tensors) if each.kind == "matrix")

    assert (part.tensors, part.differ) == (len(matrices), len(matrices))
    assert part.relative == pytest.approx(gap / whole, rel=1e-6)


def test_what_is_missing_or_of_another_shape_or_type_comes_first(tmp_path: Path) -> None:
    a, b = weights(), weights()
    b["model.extra.weight"] = torch.ones(2)
    del b[NORM]
    b[UP] = torch.zeros(3, 3)
    b[QUERY] = b[QUERY].to(torch.float64)
    found = pair(tmp_path, a, b)

    assert [(each.name, each.status) for each in found.tensors[:4]] == [
        (NORM, Status.ONLY_A),
        ("model.extra.weight", Status.ONLY_B),
        (UP, Status.SHAPE),
        (QUERY, Status.DTYPE),
    ]
    assert of(found, QUERY).changed == 0
    assert of(found, UP).relative is None and of(found, UP).b is not None
    assert not found.equal


@pytest.mark.parametrize(
    ("ours", "theirs", "changed", "largest"),
    [
        ([0.0, 1.0], [-0.0, 1.0], 0, 0.0),
        ([math.nan, 1.0], [math.nan, 1.0], 0, 0.0),
        ([math.inf, 1.0], [math.inf, 1.5], 1, 0.5),
        ([math.inf, 1.0], [-math.inf, 1.0], 1, None),
        ([1.0, 1.0], [math.nan, 1.0], 1, None),
    ],
)
def test_zeros_of_both_signs_and_nan_and_infinity_are_values(
    tmp_path: Path, ours: list[float], theirs: list[float], changed: int, largest: float | None
) -> None:
    a, b = weights(), weights()
    a[NORM], b[NORM] = torch.tensor(ours), torch.tensor(theirs)
    found = pair(tmp_path, a, b)

    assert (of(found, NORM).changed, of(found, NORM).largest) == (changed, largest)
    assert found.equal == (changed == 0)
    json.dumps(found.plain(), allow_nan=False)


ODD = {
    "bool": torch.tensor([True, False]),
    "int64": torch.tensor([2**62 + 1, -5]),
    "uint8": torch.tensor([255, 0], dtype=torch.uint8),
    "float8": torch.tensor([1.0, -2.0]).to(torch.float8_e4m3fn),
    "complex": torch.tensor([1 + 2j, 3j], dtype=torch.complex64),
    "half": torch.tensor([1.0, 65504.0], dtype=torch.float16),
}


@pytest.mark.parametrize("name", ODD)
def test_every_type_is_compared_by_its_values(tmp_path: Path, name: str) -> None:
    a, b = weights(), weights()
    a["odd"] = ODD[name]
    b["odd"] = a["odd"].clone()
    assert pair(tmp_path / "same", a, b).equal
    b["odd"].view(torch.uint8)[0] ^= 1  # the least bit
    assert of(pair(tmp_path / "other", a, b), "odd").changed == 1
    b["odd"] = torch.tensor([7.0, 7.0])
    assert of(pair(tmp_path / "type", a, b), "odd").status is Status.DTYPE


def test_empty_tensors_and_scalars_are_compared(tmp_path: Path) -> None:
    a = weights() | {"empty": torch.zeros(0, 3), "scalar": torch.tensor(2.0)}
    b = a | {"scalar": torch.tensor(3.0)}
    found = pair(tmp_path, a, b)

    assert of(found, "empty").status is Status.EQUAL
    assert (of(found, "scalar").relative, of(found, "scalar").largest) == (0.5, 1.0)


def test_a_difference_from_nothing_has_no_relative_size(tmp_path: Path) -> None:
    found = pair(tmp_path, weights() | {NORM: torch.zeros(6)}, weights() | {NORM: torch.ones(6)})

    assert (of(found, NORM).relative, of(found, NORM).largest) == (None, 1.0)
    assert found.tensors[0].name == NORM


@settings(max_examples=examples(10, 60), deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 5))
def test_a_difference_is_the_same_from_both_sides(
    tmp_path_factory: pytest.TempPathFactory, seed: int, zeros: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    a = {f"t{index}": torch.randn(5, generator=generator) for index in range(3)}
    b = {name: each + (torch.rand(5, generator=generator) * 5 > zeros) for name, each in a.items()}
    root = tmp_path_factory.mktemp("both")
    folders = save(root / "a", a, config=None), save(root / "b", b, config=None)
    there, back = diff(*folders), diff(*folders[::-1])

    for each in there.tensors:
        other = of(back, each.name)
        assert (each.status, each.changed, each.largest) == (other.status, other.changed, other.largest)
        assert (each.a, each.b) == (other.b, other.a)


# --- one parameter by several names


def test_a_tied_head_that_one_model_stores_is_the_other_s_embedding(tmp_path: Path) -> None:
    config = CONFIG | {"tie_word_embeddings": True}
    whole = weights()
    whole[HEAD] = whole[EMBEDDING].clone()
    alone = {name: each for name, each in whole.items() if name != HEAD}
    folders = save(tmp_path / "a", alone, config=config), save(tmp_path / "b", whole, config=config)

    for found in (diff(*folders), diff(*folders[::-1])):
        assert found.equal, found.tensors[0]


def test_names_of_transformers_4_and_5_meet(tmp_path: Path) -> None:
    a = {"language_model.model.norm.weight": torch.ones(4), "vision_tower.x.weight": torch.ones(4)}
    b = {"model.language_model.norm.weight": torch.ones(4), "model.vision_tower.x.weight": torch.zeros(4)}
    config = {"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"]}
    found = pair(tmp_path, a, b, config=config)

    assert found.counts() | {"equal": 1, "values": 1} == found.counts()
    assert {each.b.name for each in found.tensors if each.b} == set(b)


# --- adapters


def test_adapters_with_other_factors_of_one_product_are_equal(tmp_path: Path) -> None:
    a, b = (save_adapter(tmp_path / name) for name in "ab")
    file = b / "adapter_model.safetensors"
    tensors = {
        name: each * (2 if "lora_A" in name else 0.5) for name, each in load_file(file).items()
    }  # powers of 2: exact
    save_file(tensors, file)
    assert diff(a, b).equal

    config = json.loads((b / "adapter_config.json").read_text())
    (b / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 8}))
    found = diff(a, b)
    assert [each.relative for each in found.tensors] == [1.0, 1.0]


def test_the_figures_of_adapters_are_those_of_their_products(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", 20)
    a, b = (save_adapter(tmp_path / name, seed=seed) for seed, name in enumerate("ab"))
    files = [load_file(each / "adapter_model.safetensors") for each in (a, b)]

    def product(file: Tensors, name: str) -> Tensor:
        module_name = "base_model.model." + name.removesuffix(".weight")
        up, down = file[f"{module_name}.lora_B.weight"], file[f"{module_name}.lora_A.weight"]
        return 2 * up.double() @ down.double()

    found = diff(a, b)
    for name in (QUERY, UP):
        ours, theirs = (product(file, name) for file in files)
        assert of(found, name).relative == pytest.approx(
            float((theirs - ours).norm() / ours.norm()), rel=1e-6
        )
        assert of(found, name).largest == pytest.approx(float((theirs - ours).abs().max()), rel=1e-6)


def test_what_only_one_adapter_trains_is_named(tmp_path: Path) -> None:
    a, b = save_adapter(tmp_path / "a"), save_adapter(tmp_path / "b", (QUERY,))
    assert [(each.name, each.status) for each in diff(a, b).tensors if each.status != "equal"] == [
        (UP, Status.ONLY_A)
    ]


def test_magnitudes_of_dora_and_trained_modules_are_compared_as_stored(tmp_path: Path) -> None:
    folders = []
    for name, magnitude in (("a", 1.0), ("b", 3.0)):
        folder = save_adapter(tmp_path / name, (QUERY,), settings={"use_dora": True})
        file = folder / "adapter_model.safetensors"
        tensors = load_file(file)
        prefix = "base_model.model." + QUERY.removesuffix(".weight")
        tensors[f"{prefix}.lora_magnitude_vector"] = torch.full((6,), magnitude)
        tensors["base_model.model.model.norm.weight"] = torch.full((6,), magnitude)
        save_file(tensors, file)
        folders.append(folder)
    found = diff(*folders)

    changed = {each.name: each.relative for each in found.tensors if each.status == "values"}
    assert changed == {f"{QUERY} (magnitude)": 2.0, f"{NORM} (full)": 2.0}


def test_an_adapter_and_a_checkpoint_are_refused_with_the_way_out(models: World) -> None:
    adapter = save_adapter(models.root / "adapter")
    for both in ((models.base, adapter), (adapter, models.base)):
        with pytest.raises(CheckpointError, match="--method average --out"):
            diff(*both)


@pytest.mark.parametrize("what", ["nothing", "text", "truncated", "adapter"])
def test_what_is_no_model_is_refused(models: World, what: str) -> None:
    bad = models.root / "bad"
    if what != "nothing":
        bad.mkdir()
    if what == "text":
        (bad / "model.safetensors").write_text("hello")
    if what == "truncated":
        (bad / "model.safetensors").write_bytes((models.base / "model.safetensors").read_bytes()[:-3])
    if what == "adapter":
        (bad / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError) as caught:
        diff(models.base, bad)
    assert isinstance(caught.value, AdapterError) == (what == "adapter")


# --- configs and tokenizers


def test_configs_are_compared_by_meaning(tmp_path: Path) -> None:
    tensors = weights()
    base = save(tmp_path / "base", tensors)
    renamed = save(tmp_path / "renamed", tensors, config=CONFIG | {"_name_or_path": "elsewhere"})
    heads = save(tmp_path / "heads", tensors, config=CONFIG | {"num_attention_heads": 3})

    assert diff(base, renamed).equal
    found = diff(base, heads)
    assert [(each.key, each.a, each.b) for each in found.config] == [
        ("head_dim", 3, 2),
        ("num_attention_heads", 2, 3),
        ("num_key_value_heads", 2, 3),
    ]
    assert not found.equal


def test_tokenizers_are_compared_id_by_id(tmp_path: Path) -> None:
    tensors = weights()
    vocabulary = TOKENIZER["model"]["vocab"]
    other = {"model": {"vocab": {**vocabulary, "new": 12} | {"t0": 1, "t1": 0}}, "added_tokens": []}
    spaced = json.dumps({"version": "1.0", **TOKENIZER}, indent=3)
    a, b, c = (
        save(tmp_path / name, tensors, files={"tokenizer.json": file})
        for name, file in (("a", TOKENIZER), ("b", other), ("c", spaced))
    )
    assert diff(a, b).tokens == 3
    assert not diff(a, b).equal
    assert (diff(a, c).tokens, diff(a, c).equal) == (0, True)
    assert diff(a, save(tmp_path / "d", tensors)).tokens is None
