"""A tiny base language model and experts of it, full and as PEFT adapters, as anyone would save them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from optmerge.omni import OmniConfig, OmniForConditionalGeneration, OmniProcessor, TowerConfig
from worlds import omni as tiny

LORA = r"language_model.*\.(q_proj|v_proj|down_proj)"


def base(folder: Path, seed: int = 0, **options: Any) -> Path:
    """A causal language model with its tokenizer."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**{**tiny.TEXT, **options}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    model.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def omni(
    llm: Path, *kinds: str | TowerConfig, seed: int = 0, change: float = 0.0
) -> OmniForConditionalGeneration:
    """An omni model around a language model, which is changed a little."""
    language = AutoModelForCausalLM.from_pretrained(llm)
    towers = [tiny.tower(kind) if isinstance(kind, str) else kind for kind in kinds]
    torch.manual_seed(seed)
    model = OmniForConditionalGeneration(
        OmniConfig(text_config=language.config, towers={each.modality: each for each in towers})
    )
    model.language_model.load_state_dict(language.state_dict())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            size = change if name.startswith("language_model.") else 0.2
            parameter.add_(torch.randn_like(parameter), alpha=size)
    return model.eval()


def save(model: OmniForConditionalGeneration, folder: Path, words: Any = None) -> Path:
    model.save_pretrained(folder)
    OmniProcessor.from_config(model.config, words or tiny.tokenizer()).save_pretrained(folder)
    return folder


def full(llm: Path, folder: Path, *kinds: str | TowerConfig, seed: int = 1) -> Path:
    """An expert fine-tuned in all its weights."""
    return save(omni(llm, *kinds, seed=seed, change=0.02), folder)


def adapted(
    llm: Path,
    folder: Path,
    *kinds: str | TowerConfig,
    seed: int = 1,
    rank: int = 3,
    target: str = LORA,
    **options: Any,
) -> Path:
    """An expert fine-tuned by LoRA and its projector, `folder`, beside the model it was trained on."""
    from peft import LoraConfig, get_peft_model

    start = save(omni(llm, *kinds, seed=seed), folder.with_name(f"{folder.name}-start"))
    model = OmniForConditionalGeneration.from_pretrained(start)
    settings = {"modules_to_save": ["projector"], "lora_alpha": 5, **options}
    tuned = get_peft_model(model, LoraConfig(r=rank, target_modules=target, **settings))
    torch.manual_seed(seed + 100)
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    tuned.save_pretrained(folder, save_embedding_layers=False)
    return folder


def load_adapted(folder: Path) -> Any:
    """The expert as PEFT loads it."""
    from peft import PeftModel

    start = folder.with_name(f"{folder.name}-start")
    return PeftModel.from_pretrained(OmniForConditionalGeneration.from_pretrained(start), folder).eval()


def merged(folder: Path, out: Path) -> Path:
    """The expert with its adapter merged into it by PEFT, as a full checkpoint."""
    start = folder.with_name(f"{folder.name}-start")
    model = load_adapted(folder).merge_and_unload()
    model.save_pretrained(out)
    OmniProcessor.from_pretrained(start).save_pretrained(out)
    return out


def logits(model: Any, inputs: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(**inputs).logits
    return found
