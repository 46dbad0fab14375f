"""Small checkpoints in Llama's names, written without transformers: a merge of them takes milliseconds."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from optmerge.engine.merge import Watch
from optmerge.engine.plan import Progress

VOCABULARY, WIDTH, INNER, LAYERS = 12, 6, 10, 2
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "tie_word_embeddings": False,
    "dtype": "float32",
}
TOKENIZER: dict[str, Any] = {
    "model": {"vocab": {f"t{index}": index for index in range(VOCABULARY)}},
    "added_tokens": [],
}
QUERY, UP = "model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.up_proj.weight"
EMBEDDING, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"

Tensors = dict[str, Tensor]


def weights(seed: int = 0) -> Tensors:
    """A base."""
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (VOCABULARY, WIDTH)}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        shapes[f"{prefix}.input_layernorm.weight"] = (WIDTH,)
        shapes[f"{prefix}.self_attn.q_proj.weight"] = (WIDTH, WIDTH)
        shapes[f"{prefix}.mlp.up_proj.weight"] = (INNER, WIDTH)
        shapes[f"{prefix}.mlp.down_proj.weight"] = (WIDTH, INNER)
    shapes |= {NORM: (WIDTH,), HEAD: (VOCABULARY, WIDTH)}
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def tuned(base: Mapping[str, Tensor], seed: int) -> Tensors:
    """An expert: the base, and a little noise in every floating-point tensor."""
    generator = torch.Generator().manual_seed(1000 + seed)
    return {
        name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator).to(tensor.dtype)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in base.items()
    }


def save(
    folder: Path,
    tensors: Mapping[str, Tensor],
    *,
    config: Mapping[str, Any] | None = CONFIG,
    files: Mapping[str, str | dict[str, Any]] | None = None,
) -> Path:
    """A checkpoint folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: each.contiguous() for name, each in tensors.items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    for name, content in {**({"config.json": dict(config)} if config else {}), **(files or {})}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return folder


def save_adapter(
    folder: Path,
    targets: Sequence[str] = (QUERY, UP),
    *,
    base: Mapping[str, Tensor] | None = None,
    rank: int = 2,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """A LoRA adapter folder, scaling 2, for tensors of `base`."""
    base = base or weights()
    generator = torch.Generator().manual_seed(2000 + seed)
    tensors: Tensors = {}
    for name in targets:
        rows, columns = base[name].shape
        module = "base_model.model." + name.removesuffix(".weight")
        tensors[f"{module}.lora_A.weight"] = 0.3 * torch.randn(rank, columns, generator=generator)
        tensors[f"{module}.lora_B.weight"] = 0.3 * torch.randn(rows, rank, generator=generator)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": sorted({name.split(".")[-2] for name in targets}),
        "base_model_name_or_path": None,
        **(settings or {}),
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@dataclass(frozen=True)
class World:
    """A base and its experts on disk, with what their files hold."""

    root: Path
    base: Path
    experts: tuple[Path, ...]

    @property
    def out(self) -> Path:
        """An output folder that isn't there yet."""
        return self.root / "out"

    def recipe(self, **changes: Any) -> dict[str, Any]:
        """Task arithmetic on all matrices, unless changed."""
        return {
            "base": str(self.base),
            "experts": [str(expert) for expert in self.experts],
            "method": {"name": "task_arithmetic", "scale": 0.5},
            **changes,
        }

    def tensors(self, index: int | None = None) -> Tensors:
        """What the base, or an expert, holds."""
        return load(self.base if index is None else self.experts[index])

    def rewrite(self, index: int | None, change: Callable[[Tensors], object]) -> Path:
        """Changes the tensors of the base, or of an expert, in place; returns its folder."""
        folder = self.base if index is None else self.experts[index]
        tensors = load(folder)
        change(tensors)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return folder


def world(root: Path, experts: int = 2, base: Tensors | None = None, **options: Any) -> World:
    """A base and full experts; `options` as for `save`."""
    start = base or weights()
    base_folder = save(root / "base", start, **options)
    folders = tuple(save(root / f"e{i}", tuned(start, i), **options) for i in range(experts))
    return World(root, base_folder, folders)


def load(folder: Path) -> Tensors:
    """All tensors of a folder, of however many shards."""
    found: Tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


def watching(progress: Progress) -> Watch:
    """What tells a function of each finished tensor, as `optmerge.merge` takes it."""
    return lambda plan: nullcontext(progress)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under a folder, byte for byte."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
