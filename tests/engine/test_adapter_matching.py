"""What an adapter's names and files mean for the base: found, taken as part of it, or refused."""

from __future__ import annotations

import copy
import json
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

import optmerge
from optmerge.architectures import KINDS
from optmerge.errors import AdapterError, RecipeError
from worlds.merges import (
    CONFIG,
    EMBEDDING,
    HEAD,
    NORM,
    QUERY,
    UP,
    WIDTH,
    Tensors,
    World,
    load,
    save_adapter,
    weights,
    world,
)
from worlds.models import TINY
from worlds.samples import sample

pytestmark = pytest.mark.filterwarnings("ignore")

EVERYTHING = {"kinds": list(KINDS)}
Rename = Callable[[str], str]


@pytest.fixture
def models(tmp_path: Path) -> World:
    """A base, and an adapter `a` of two of its matrices."""
    made = world(tmp_path, experts=0)
    save_adapter(tmp_path / "a")
    return made


def rewritten(adapter: Path, rename: Rename, **settings: Any) -> Path:
    """The adapter with other names of its tensors, and other settings."""
    file, config = adapter / "adapter_model.safetensors", adapter / "adapter_config.json"
    save_file({rename(key): value for key, value in load_file(file).items()}, file)
    config.write_text(json.dumps({**json.loads(config.read_text()), **settings}))
    return adapter


def merged(models: World, adapter: Path, **changes: Any) -> tuple[Tensors, tuple[str, ...]]:
    """What one adapter makes of the base, and what was said."""
    shutil.rmtree(models.out, ignore_errors=True)
    done = optmerge.merge(models.recipe(experts=[str(adapter)], **changes), models.out)
    return load(models.out), done.warnings


def stored(name: str) -> Rename:
    """Factors named as a state dict names them, with the adapter's name in it."""
    return lambda key: key.replace("lora_A.", f"lora_A.{name}.").replace("lora_B.", f"lora_B.{name}.")


WRAPPED: dict[str, Rename] = {
    "torch.compile": lambda key: f"_orig_mod.{key}",
    "torch.compile inside": lambda key: key.replace("model.layers.", "model.layers._orig_mod."),
    "DDP": lambda key: f"module.{key}",
    "DDP around torch.compile": lambda key: f"module._orig_mod.{key}",
    "DDP inside PEFT": lambda key: key.replace("base_model.model.", "base_model.model.module."),
    "FSDP": lambda key: key.replace("base_model.model.", "base_model.model._fsdp_wrapped_module."),
    "FSDP of each layer": lambda key: key.replace(".self_attn.", "._fsdp_wrapped_module.self_attn."),
    "activation checkpointing": lambda key: key.replace(".mlp.", "._checkpoint_wrapped_module.mlp."),
    "PEFT twice": lambda key: f"base_model.model.{key}",
    "no PEFT": lambda key: key.removeprefix("base_model.model."),
    "PEFT inside": lambda key: key.removeprefix("base_model.model.").replace(
        "model.", "model.base_model.model."
    ),
    "the adapter's name": stored("default"),
    "another name of the adapter": stored("weight_2"),
}


@pytest.mark.parametrize("rename", WRAPPED.values(), ids=WRAPPED.keys())
def test_what_wrappers_put_into_names_makes_no_difference(models: World, rename: Rename) -> None:
    plain, _ = merged(models, models.root / "a")
    again, said = merged(models, rewritten(models.root / "a", rename))
    assert all(torch.equal(again[name], value) for name, value in plain.items()) and not said


def test_trained_modules_are_found_under_the_names_of_a_state_dict(models: World) -> None:
    adapter, value = models.root / "a", torch.full((WIDTH,), 3.0)
    file = adapter / "adapter_model.safetensors"
    name = "base_model.model.model.norm"
    extra = {f"{name}.modules_to_save.default.weight": value, f"{name}.original_module.weight": value * 0}
    save_file({**load_file(file), **extra}, file)
    found, _ = merged(models, adapter, select=EVERYTHING, method={"name": "task_arithmetic", "scale": 1})
    assert torch.equal(found[NORM], value)


@pytest.mark.parametrize("ends", [["lm_head"], ["embed_tokens"], ["embed_tokens", "lm_head"]])
def test_trained_ends_that_peft_saves_under_two_names_are_one(
    ends: list[str], sparse: Any, tmp_path: Path
) -> None:
    model, base = sparse("qwen2_vl")
    wanted = trained(
        model,
        {"target_modules": ["q_proj"], "modules_to_save": ends},
        tmp_path / "a",
        save_embedding_layers=True,
    )
    assert any("modules_to_save" in key for key in load_file(tmp_path / "a/adapter_model.safetensors"))
    recipe = {
        "base": str(base),
        "experts": [str(tmp_path / "a")],
        "method": {"name": "task_arithmetic", "scale": 1},
        "select": EVERYTHING,
    }
    optmerge.merge(recipe, tmp_path / "out")
    assert_same(read_back(model, tmp_path / "out"), wanted)


def test_two_names_of_a_trained_module_that_differ_in_shape_are_refused(models: World) -> None:
    adapter, name = models.root / "a", "base_model.model.model.norm"
    file = adapter / "adapter_model.safetensors"
    extra = {f"{name}.modules_to_save.weight": torch.ones(WIDTH), f"{name}.weight": torch.ones(WIDTH + 1)}
    save_file({**load_file(file), **extra}, file)
    with pytest.raises(AdapterError, match="in the adapter twice"):
        merged(models, adapter)


# What lies beside an adapter.


def beside(adapter: Path, name: str, tensors: Tensors) -> Path:
    """The adapter with one more file of weights."""
    if name.endswith(".safetensors"):
        save_file(tensors, adapter / name)
    else:
        torch.save(tensors, adapter / name)
    return adapter


TRAINED: Tensors = {f"base_model.model.{NORM}": torch.full((WIDTH,), 3.0)}


@pytest.mark.parametrize("name", ["vit.safetensors", "non_lora_state_dict.bin", "mm_projector.bin", "own.pt"])
def test_weights_beside_an_adapter_are_part_of_it(models: World, name: str) -> None:
    adapter = beside(models.root / "a", name, TRAINED)
    whole = {"select": EVERYTHING, "method": {"name": "task_arithmetic", "scale": 1}}
    found, said = merged(models, adapter, allow_pickle=True, **whole)
    alone, _ = merged(models, adapter, ignore=[f"^{name}$"], **whole)

    assert any(name in warning for warning in said)
    assert torch.equal(found[NORM], TRAINED[f"base_model.model.{NORM}"])
    assert torch.equal(alone[NORM], models.tensors()[NORM])
    assert all(torch.equal(found[each], alone[each]) for each in alone if each != NORM)


def test_a_pickle_beside_an_adapter_is_refused_by_its_name_or_left_out_on_request(models: World) -> None:
    adapter = beside(models.root / "a", "non_lora_trainables.bin", TRAINED)
    with pytest.raises(AdapterError, match=r"non_lora_trainables\.bin[\s\S]*allow_pickle: true[\s\S]*ignore"):
        merged(models, adapter)
    assert merged(models, adapter, ignore=["non_lora_trainables"])


REFUSED: dict[str, tuple[str, Tensors, str]] = {
    "a value head": (
        "value_head.safetensors",
        {"v_head.summary.weight": torch.ones(1, WIDTH)},
        "no tensors for",
    ),
    "LLaVA's own names": (
        "mm_projector.safetensors",
        {"model.mm_projector.0.weight": torch.ones(WIDTH, WIDTH)},
        "no tensors for",
    ),
    "another shape": ("norm.safetensors", {NORM: torch.ones(WIDTH + 1)}, "doesn't fit"),
    "a whole checkpoint": ("model.safetensors", weights(), "another model lies beside"),
    "the adapter again": (
        "pytorch_model.safetensors",
        {f"{QUERY[:-7]}.lora_A.default.weight": torch.ones(2, WIDTH)},
        "another model lies beside",
    ),
}


@pytest.mark.parametrize(("name", "tensors", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_lies_beside_an_adapter_and_doesn_t_fit_is_refused_by_its_file(
    models: World, name: str, tensors: Tensors, message: str
) -> None:
    adapter = beside(models.root / "a", name, tensors)
    with pytest.raises(AdapterError, match=message) as caught:
        merged(models, adapter)
    assert str(caught.value.where).endswith(name) and "ignore" in str(caught.value.hint)
    assert merged(models, adapter, ignore=[name])


@pytest.mark.parametrize("name", ["optimizer.pt", "training_args.bin", "rng_state_0.pth", "spk_dict.pt"])
def test_what_training_leaves_behind_is_no_weight(models: World, name: str) -> None:
    (models.root / "a" / name).write_bytes(b"anything")
    assert merged(models, models.root / "a")


# `ignore`.


def test_ignore_reaches_every_kind_of_tensor_of_an_adapter(models: World) -> None:
    adapter, file = models.root / "a", models.root / "a/adapter_model.safetensors"
    extra = {
        "base_model.model.score.weight": torch.ones(2, WIDTH),
        "base_model.model.model.embed_tokens.weight": torch.ones(20, WIDTH),
        "base_model.model.lm_head.base_layer.weight": torch.ones(20, WIDTH),
        "base_model.model.lm_head.lora_A.weight": torch.ones(2, WIDTH),
        "base_model.model.lm_head.lora_B.weight": torch.ones(20, 2),
    }
    plain, _ = merged(models, adapter)
    save_file({**load_file(file), **extra}, file)
    beside(adapter, "heads.safetensors", {"v_head.weight": torch.ones(1)})
    found, _ = merged(models, adapter, ignore=["^score", "embed_tokens", "lm_head", "^v_head"])
    assert all(torch.equal(found[name], value) for name, value in plain.items())
    for missing in (["embed_tokens", "lm_head", "^v_head"], ["^score", "lm_head", "^v_head"]):
        with pytest.raises(AdapterError, match="ignore"):
            merged(models, adapter, ignore=missing)


# Names of another model.


def test_most_names_unknown_is_no_case_for_ignore(models: World) -> None:
    adapter = rewritten(models.root / "a", lambda key: key.replace("layers", "blocks"))
    with pytest.raises(AdapterError, match="the base has no") as caught:
        merged(models, adapter)
    assert "ignore" not in str(caught.value) and "inspect" in str(caught.value.hint)
    assert "a name such as model.layers" in str(caught.value.expected)


VISION = {
    **CONFIG,
    "model_type": "llava",
    "architectures": ["LlavaForConditionalGeneration"],
    "text_config": CONFIG,
}


def around(tensors: Tensors) -> Tensors:
    """The text model inside a larger one, which has layers of the same shapes in its tower."""
    inside = {name.replace("model.", "model.language_model.", 1): value for name, value in tensors.items()}
    tower = {
        name.replace("model.", "model.vision_tower.encoder.", 1): value + 1
        for name, value in tensors.items()
        if ".layers." in name
    }
    return {**inside, **tower}


def test_an_adapter_of_the_text_model_fits_the_model_around_it_and_back(tmp_path: Path) -> None:
    text = world(tmp_path / "text", experts=0)
    large = world(tmp_path / "large", experts=0, base=around(weights()), config=VISION)
    adapter = save_adapter(tmp_path / "a", (QUERY, UP, EMBEDDING, HEAD))
    alone, silent = merged(text, adapter, select=EVERYTHING)
    inside, said = merged(large, adapter, select=EVERYTHING)

    assert not silent and any("another model" in warning for warning in said)
    assert all(
        torch.equal(inside[name], value) for name, value in around(alone).items() if "vision" not in name
    )
    assert all(
        torch.equal(inside[name], value) for name, value in large.tensors().items() if "vision" in name
    )

    for inner in ("model.language_model.", "language_model.model."):
        back = save_adapter(tmp_path / inner, (QUERY, UP, EMBEDDING, HEAD))
        rewritten(back, lambda key, inner=inner: key.replace("model.model.", "model." + inner, 1))
        found, _ = merged(text, back, select=EVERYTHING)
        assert all(torch.equal(found[name], value) for name, value in alone.items())


# Stacks of experts.

BY_HAND = {"target_modules": ["q_proj"], "target_parameters": ["experts.gate_up_proj", "experts.down_proj"]}
STACKS: dict[str, tuple[str, dict[str, Any]]] = {
    "Mixtral, all-linear": ("mixtral", {"target_modules": "all-linear"}),
    "Qwen3-MoE, all-linear": ("qwen3_moe", {"target_modules": "all-linear", "use_rslora": True}),
    "Qwen2-MoE, by hand": ("qwen2_moe", BY_HAND),
    "Qwen3-VL-MoE, stacked on disk": ("qwen3_vl_moe", BY_HAND),
    "one of both": ("qwen3_vl_moe", {"target_parameters": ["down_proj"], "target_modules": ["q_proj"]}),
    "two ranks": (
        "mixtral",
        {**BY_HAND, "rank_pattern": {r".*\.gate_up_proj": 3}, "alpha_pattern": {"down_proj": 1}},
    ),
}


@pytest.fixture(scope="session")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[PreTrainedModel, Path]]:
    """A tiny model and its folder, by family."""
    made: dict[str, tuple[PreTrainedModel, Path]] = {}

    def make(name: str) -> tuple[PreTrainedModel, Path]:
        if name not in made:
            model, folder = TINY[name](), tmp_path_factory.mktemp(name)
            model.save_pretrained(folder)
            made[name] = model, folder
        return made[name]

    return make


def trained(
    model: PreTrainedModel, settings: dict[str, Any], folder: Path, seed: int = 1, **saving: Any
) -> dict[str, Tensor]:
    """Saves an adapter of random factors; returns the state dict that PEFT merges."""
    config = peft.LoraConfig(r=2, lora_alpha=7, **copy.deepcopy(settings))
    adapted = peft.get_peft_model(copy.deepcopy(model), config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    adapted.save_pretrained(folder, **saving)
    state: dict[str, Tensor] = adapted.merge_and_unload().state_dict()
    return state


def read_back(model: PreTrainedModel, folder: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = type(model).from_pretrained(folder, dtype=torch.float32).state_dict()
    return state


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=2e-6, msg=name)


@pytest.mark.sampled
@pytest.mark.parametrize(("name", "settings"), sample(list(STACKS.values()), 3))
def test_an_adapter_of_stacked_experts_is_what_peft_merges(
    name: str, settings: dict[str, Any], sparse: Any, tmp_path: Path
) -> None:
    model, base = sparse(name)
    wanted = trained(model, settings, tmp_path / "a")
    assert any(
        ".experts." in key and not torch.equal(value, model.state_dict()[key])
        for key, value in wanted.items()
    )
    recipe = {
        "base": str(base),
        "experts": [str(tmp_path / "a")],
        "method": {"name": "task_arithmetic", "scale": 1},
        "select": EVERYTHING,
    }
    optmerge.merge(recipe, tmp_path / "out")
    assert_same(read_back(model, tmp_path / "out"), wanted)


def peft_merged(model: PreTrainedModel, folder: Path) -> dict[str, Tensor]:
    """What PEFT makes of an adapter; what it doesn't find is an error."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*missing adapter keys.*")
        adapted = peft.PeftModel.from_pretrained(copy.deepcopy(model), folder)
    state: dict[str, Tensor] = adapted.merge_and_unload().state_dict()
    return state


METHODS: list[dict[str, Any]] = [
    {"name": "task_arithmetic", "scale": 0.7},
    {"name": "swudi"},
    {"name": "ties", "scale": 1},
    {"name": "average"},
]


def stack_recipe(base: Path, settings: Sequence[dict[str, Any]], model: Any, root: Path) -> dict[str, Any]:
    """A recipe of random adapters with these settings."""
    for seed, each in enumerate(settings):
        trained(model, each, root / f"a{seed}", seed)
    return {
        "base": str(base),
        "experts": [str(root / f"a{seed}") for seed in range(len(settings))],
        "select": EVERYTHING,
    }


@pytest.mark.sampled
@pytest.mark.parametrize(("name", "settings"), sample(list(STACKS.values()), 2))
@pytest.mark.parametrize("method", sample(METHODS, 2), ids=lambda method: method["name"])
def test_a_merged_adapter_of_stacked_experts_is_the_dense_merge(
    name: str, settings: dict[str, Any], method: dict[str, Any], sparse: Any, tmp_path: Path
) -> None:
    model, base = sparse(name)
    recipe = {**stack_recipe(base, [settings, settings], model, tmp_path), "method": method}
    optmerge.merge(recipe, tmp_path / "dense")
    done = optmerge.merge({**recipe, "output": "adapter"}, tmp_path / "low")
    assert not any("PEFT" in said for said in done.warnings)
    found = peft_merged(model, tmp_path / "low")
    before = model.state_dict()
    assert any(".experts." in key and not torch.equal(value, before[key]) for key, value in found.items())
    assert_same(found, read_back(model, tmp_path / "dense"))


@pytest.mark.parametrize("name", ["mixtral", "qwen3_vl_moe"])
def test_a_merged_adapter_of_stacks_has_the_experts_ranks_or_the_rank_asked_for(
    name: str, sparse: Any, tmp_path: Path
) -> None:
    model, base = sparse(name)
    recipe = stack_recipe(base, [BY_HAND, BY_HAND], model, tmp_path)
    recipe["method"] = {"name": "task_arithmetic", "scale": 1}
    optmerge.merge({**recipe, "output": "adapter"}, tmp_path / "low")
    config = json.loads((tmp_path / "low/adapter_config.json").read_text())
    assert {config["r"], *config["rank_pattern"].values()} == {4}
    assert any(each.endswith("experts.down_proj") for each in config["target_parameters"])
    optmerge.merge({**recipe, "output": {"format": "adapter", "rank": 3}}, tmp_path / "lower")
    config = json.loads((tmp_path / "lower/adapter_config.json").read_text())
    assert {config["r"], *config["rank_pattern"].values()} == {3}


def test_a_merged_adapter_of_stacks_is_merged_again_as_what_it_is(sparse: Any, tmp_path: Path) -> None:
    model, base = sparse("mixtral")
    recipe = stack_recipe(base, [BY_HAND, BY_HAND], model, tmp_path)
    recipe["method"] = {"name": "task_arithmetic", "scale": 1}
    optmerge.merge({**recipe, "output": "adapter"}, tmp_path / "low")
    optmerge.merge(recipe, tmp_path / "dense")
    optmerge.merge({**recipe, "experts": [str(tmp_path / "low")]}, tmp_path / "again")
    assert_same(read_back(model, tmp_path / "again"), read_back(model, tmp_path / "dense"))


def test_experts_that_are_left_out_of_a_stack_stay_as_they_were(sparse: Any, tmp_path: Path) -> None:
    model, base = sparse("mixtral")
    recipe = stack_recipe(base, [BY_HAND], model, tmp_path)
    recipe |= {"method": {"name": "task_arithmetic", "scale": 1}, "output": "adapter"}
    recipe["select"] = {**EVERYTHING, "exclude": [r"experts\.1\.", r"experts\.0\.w3"]}
    optmerge.merge(recipe, tmp_path / "low")
    optmerge.merge({**recipe, "output": "dense"}, tmp_path / "dense")
    assert_same(peft_merged(model, tmp_path / "low"), read_back(model, tmp_path / "dense"))


def test_stacks_of_which_one_adapter_changes_a_part_are_one_adapter(sparse: Any, tmp_path: Path) -> None:
    model, base = sparse("qwen3_vl_moe")
    half = {"target_parameters": ["experts.down_proj"], "target_modules": ["q_proj"]}
    recipe = stack_recipe(base, [BY_HAND, half], model, tmp_path)
    recipe |= {"method": {"name": "task_arithmetic", "scale": 1}, "output": "adapter"}
    optmerge.merge(recipe, tmp_path / "low")
    optmerge.merge({**recipe, "output": "dense"}, tmp_path / "dense")
    assert_same(peft_merged(model, tmp_path / "low"), read_back(model, tmp_path / "dense"))


def test_a_merged_adapter_of_single_experts_is_refused_since_peft_would_not_apply_it(tmp_path: Path) -> None:
    single = "model.layers.0.block_sparse_moe.experts.0.w1.weight"
    models = world(
        tmp_path,
        experts=0,
        base={**weights(), single: torch.ones(4, WIDTH)},
        config={**CONFIG, "model_type": "mixtral", "architectures": ["MixtralForCausalLM"]},
    )
    adapter = save_adapter(tmp_path / "a", (QUERY, single), base=models.tensors())
    assert merged(models, adapter)
    with pytest.raises(RecipeError, match="output: dense"):
        merged(models, adapter, output="adapter")


def test_the_plan_counts_what_stacks_taken_apart_hold_and_write(sparse: Any, tmp_path: Path) -> None:
    model, base = sparse("qwen3_vl_moe")
    stacks = {"target_parameters": ["experts.down_proj"], "target_modules": []}
    recipe = stack_recipe(base, [stacks, stacks], model, tmp_path)
    recipe |= {"method": {"name": "task_arithmetic", "scale": 1}}
    dense, low = optmerge.plan(recipe).cost, optmerge.plan({**recipe, "output": "adapter"}).cost
    assert low.whole_tensor_bytes > dense.whole_tensor_bytes
    optmerge.merge({**recipe, "output": "adapter"}, tmp_path / "low")
    tensors = load_file(tmp_path / "low/adapter_model.safetensors").values()
    assert low.bytes_written == sum(each.nbytes for each in tensors)
