"""A zoo of tiny models of the real classes, at random: they answer nonsense, but all of it runs."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from optmerge.bench.lines.tiny import tiny_models, tokenizer
from optmerge.bench.lines.tiny.family import Processor, TinySize
from optmerge.bench.tasks import drawn

TINY = TinySize(vision_width=32, vision_layers=1, width=32, layers=2, heads=1, groups=1, mlp=48)
FEW_TEXTS = partial(tokenizer.texts, 20)
TRAINED = [name for name, task in drawn().items() if task.trained]


def make_processor(line: str, size: TinySize = TINY) -> Processor:
    """A processor of the line, whose tokenizer has seen few texts, since all of the line's take seconds."""
    with patch.object(tokenizer, "texts", FEW_TEXTS):
        return tiny_models.processor(line, size)


def make(folder: Path, line: str, sets: int = 1, mixture: bool = True) -> Path:
    """`folder/LINE` with base, expert sets and mixtures; returns `folder`."""
    processor = make_processor(line)
    model = tiny_models.build(processor, TINY, seed=0).eval()
    tiny_models.save(model, processor, folder / line / "base")
    for number in range(sets):
        for rank, task in enumerate([*TRAINED, *["mixture"] * mixture]):
            part = f"mixture/{number}" if task == "mixture" else f"experts/{number}/{task}"
            add = _adapter if line == "lora" else _checkpoint
            add(model, processor, folder / line / part, seed=10 * number + rank + 1)
    return folder


def _checkpoint(model: Any, processor: Processor, folder: Path, seed: int) -> None:
    """The model with the matrices of its language model moved a little."""
    torch.manual_seed(seed)
    kept = {name: weight.clone() for name, weight in model.named_parameters()}
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "language_model.layers" in name and weight.dim() == 2:
                weight += 0.05 * torch.randn_like(weight)
        tiny_models.save(model, processor, folder)
        for name, weight in model.named_parameters():
            weight.copy_(kept[name])


def _adapter(model: Any, processor: Processor, folder: Path, seed: int) -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=r".*language_model.*(q_proj|o_proj|up_proj|down_proj)"
    )
    adapted = get_peft_model(model, config)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    adapted.save_pretrained(str(folder))
    adapted.unload()


def make_both(folder: Path) -> Path:
    """Both lines: two expert sets of the full line, one of the lora line, a mixture of each set."""
    make(folder, "full", sets=2)
    return make(folder, "lora")
