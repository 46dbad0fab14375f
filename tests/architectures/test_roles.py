"""Roles, judged from names alone, agree with the modules that hold the parameters."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.core_model_loading import Transpose
from transformers.pytorch_utils import Conv1D

from optmerge.architectures import COMPONENTS, KINDS, Role, registered, resolve
from worlds.models import HIDDEN, build, inputs
from worlds.saved import Saved

RAW_KINDS = {
    "class_embedding": "other",
    "cls_token": "other",
    "mask_token": "other",
    "image_newline": "other",
    "lambda_1": "other",
    "lambda_2": "other",
    "gate": "other",
    "gate_attn": "other",
    "gate_ffn": "other",
    "cross_attn_attn_gate": "other",
    "cross_attn_mlp_gate": "other",
    "position_embeddings": "embedding",
    "embedding": "embedding",
    "mm_input_projection_weight": "matrix",
}
"""Parameters that no layer holds: the rule of `_roles` spelled out name by name."""

PROJECTORS = ("Projector", "PatchMerger", "Connector")
BY_NAME = {
    "model.image_newline",
    "model.audio_tower.proj",
    "model.audio_tower.audio_bos_eos_token",
    "model.multi_modal_projector",
}
"""Projectors whose class doesn't say so: what lies between a tower and the language model."""
TRANSPOSED = "mm_input_projection_weight"


def kind_of(model: PreTrainedModel, module: nn.Module, parameter: str) -> str:
    if parameter.endswith("bias"):
        return "bias"
    if module is model.get_output_embeddings():
        return "head"
    if type(module).__name__.endswith("Router"):
        return "router"
    if isinstance(module, nn.Linear | Conv1D) or type(module).__name__.endswith("Experts"):
        return "matrix"
    if isinstance(module, nn.Embedding):
        return "embedding"
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return "conv"
    return "norm" if "Norm" in type(module).__name__ else RAW_KINDS[parameter]


def component_of(model: PreTrainedModel, name: str) -> str:
    path = name.split(".")
    holders = [model.get_submodule(".".join(path[:depth])) for depth in range(len(path))]
    named = any(word in type(holder).__name__ for holder in holders for word in PROJECTORS)
    if named or BY_NAME & {".".join(path[:depth]) for depth in range(len(path) + 1)}:
        return "projector"
    config = [holder.config for holder in holders if isinstance(holder, PreTrainedModel)][-1]
    if hasattr(config, "text_config"):  # the whole, which holds nothing of its own but the head
        return "language"
    if "Vision" in type(config).__name__:
        return "video" if "video_tower" in path else "vision"
    return "audio" if "Audio" in type(config).__name__ else "language"


def true_roles(model: PreTrainedModel) -> Iterator[tuple[str, tuple[int, ...], Role]]:
    for path, module in model.named_modules():
        for leaf, parameter in module.named_parameters(recurse=False):
            name = f"{path}.{leaf}" if path else leaf
            kind = kind_of(model, module, leaf)
            transposed = kind == "matrix" and (isinstance(module, Conv1D) or leaf == TRANSPOSED)
            yield name, tuple(parameter.shape), Role(component_of(model, name), kind, transposed)


def test_every_parameter_has_the_role_of_the_module_that_holds_it(saved: Saved) -> None:
    truth = list(true_roles(saved.model))
    judged = [(name, shape, saved.architecture.role(name, shape)) for name, shape, _ in truth]
    assert judged == truth


def test_a_tensor_on_disk_has_the_role_of_the_parameter_it_becomes(saved: Saved) -> None:
    architecture = saved.architecture
    roles = {name: role for name, _, role in true_roles(saved.model)}
    for name, shape in saved.on_disk.items():
        canonical = architecture.canonical(name)
        if canonical in roles:  # an expert of a stack has no parameter of its own
            assert architecture.role(name, shape) == roles[canonical]
        else:
            assert architecture.role(name, shape) == Role("language", "matrix")


def test_every_modality_has_a_component(saved: Saved) -> None:
    components = {saved.architecture.role(name, shape).component for name, shape in saved.on_disk.items()}
    assert "language" in components
    assert "other" not in components
    assert "other" not in saved.config["model_type"]
    assert ("projector" in components) == (len(components) > 1)


def test_every_component_reaches_the_logits_of_the_tiny_model(saved: Saved) -> None:
    model = saved.model
    model.zero_grad()
    model(**inputs(model)).logits.square().sum().backward()
    moved = {
        saved.architecture.role(name, tuple(p.shape)).component
        for name, p in model.named_parameters()
        if p.grad is not None and p.grad.abs().sum() > 0
    }
    model.zero_grad()
    assert moved == {
        saved.architecture.role(name, tuple(p.shape)).component for name, p in model.named_parameters()
    }


def test_roles_use_the_published_words(saved: Saved) -> None:
    for name, shape in saved.in_memory.items():
        role = saved.architecture.role(name, shape)
        assert role.component in COMPONENTS
        assert role.kind in KINDS


EXPERTS = "model.language_model.layers.0.mlp.experts."


@pytest.mark.parametrize("leaf", ["gate_up_proj", "down_proj"])
def test_stacked_experts_are_transposed_when_transformers_4_wrote_them(leaf: str) -> None:
    model = build("qwen3_vl_moe")
    architecture = resolve(model.config.to_dict(), model.state_dict())
    memory = tuple(model.state_dict()[EXPERTS + leaf].shape)
    assert not architecture.role(EXPERTS + leaf, memory).transposed
    assert architecture.role(EXPERTS + leaf, (memory[0], memory[2], memory[1])).transposed


def test_transformers_4_orientation_is_the_one_transformers_5_turns_on_load() -> None:
    model = build("qwen3_vl_moe")
    name = EXPERTS + "down_proj"
    stored = model.state_dict()[name].transpose(1, 2).contiguous()
    loaded = Transpose(1, 2, check_dims=True).convert(
        {name: stored}, [name], [name], model=model, full_layer_name=name
    )
    assert torch.equal(loaded[name], model.state_dict()[name])


def test_square_stacked_experts_are_taken_as_they_are() -> None:
    architecture = resolve({"model_type": "qwen3_vl_moe", "text_config": {"hidden_size": HIDDEN}}, [])
    assert not architecture.role(EXPERTS + "down_proj", (3, HIDDEN, HIDDEN)).transposed


def test_orientation_is_unknown_and_taken_as_is_without_a_config() -> None:
    assert not registered()["qwen3_vl_moe"].role(EXPERTS + "down_proj", (3, 20, HIDDEN)).transposed


def test_gemma3_projection_is_stored_input_first() -> None:
    model = build("gemma3")
    projection = model.model.multi_modal_projector.mm_input_projection_weight
    assert projection.shape == (model.config.vision_config.hidden_size, model.config.text_config.hidden_size)
