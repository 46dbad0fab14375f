"""Make, write and read the models of the tiny lines."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from optmerge.bench.lines.tiny import initial, internvl, qwen2_vl, tokenizer
from optmerge.bench.lines.tiny.family import Processor, TinyFamily, TinySize
from optmerge.errors import CheckpointError, InputError, did_you_mean

LINES: Mapping[str, TinyFamily] = {"full": internvl.FAMILY, "lora": qwen2_vl.FAMILY}
"""Line → family of its models."""


def family_of(line: str) -> TinyFamily:
    """The family of a line that is made here.

    Raises:
        InputError: there is no such line; with the closest name.
    """
    if line not in LINES:
        raise InputError(f"unknown line {line!r}", where="line", hint=did_you_mean(line, LINES))
    return LINES[line]


def processor(line: str, size: TinySize) -> Processor:
    """The processor of a line's new models; its tokenizer is learnt from the tasks' texts (seconds)."""
    family = family_of(line)
    tokens = tokenizer.build(family.special, family.template, family.extra)
    return Processor(family, tokens, family.images(size), size.grid, size.merge)


def build(processor: Processor, size: TinySize, *, seed: int) -> Any:
    """A randomly initialised model in float32."""
    torch.manual_seed(seed)
    model = processor.family.model(size, processor.tokenizer)
    initial.draw(model, layers=size.layers)
    token = processor.tokenizer.convert_tokens_to_ids
    stop = {"eos_token_id": token(tokenizer.END), "pad_token_id": token(tokenizer.STOP)}
    model.generation_config.update(**stop, do_sample=False)
    return model


def save(model: Any, processor: Processor, folder: Path, *, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write the checkpoint folder; the model itself is left as it is."""
    copy.deepcopy(model).to(dtype).save_pretrained(folder)
    processor.save(folder)


def load(
    line: str,
    folder: Path | str,
    *,
    adapter: Path | str | None = None,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> tuple[Any, Processor]:
    """Model in eval mode and processor of a folder that `save` or a merge wrote.

    Args:
        line: whose family the model is of.
        folder: a checkpoint of the line.
        adapter: a PEFT folder to put onto it.
        device: of torch.
        dtype: of the weights.

    Raises:
        CheckpointError: there is no model in the folder, or one of another family.
    """
    from transformers import AutoModelForImageTextToText, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # a bar for 20 ms of work only tears the caller's output apart
    folder, family = Path(folder), family_of(line)
    check(folder, line)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype, local_files_only=True)
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(adapter))
    tokens = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    images = family.reload(json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8")))
    size = TinySize(patch=_patch(model.config.vision_config.patch_size), merge=family.merge(model.config))
    return model.to(device).eval(), Processor(family, tokens, images, size.grid, size.merge)


def check(folder: Path, line: str) -> None:
    """Makes sure that a folder holds a model of a line's family, by its config.

    Raises:
        CheckpointError: it holds none, or one of another family.
    """
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            "there is no model here",
            where=folder,
            expected="config.json and model.safetensors",
            hint="run `optmerge bench train` to make the benchmark's models, or correct the path",
        )
    kind = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    wanted = family_of(line).kind
    if kind != wanted:
        raise CheckpointError(
            f"this is no model of the {line} line",
            where=folder,
            got=kind,
            expected=wanted,
            hint="correct the path or --line",
        )


def _patch(value: int | list[int] | tuple[int, ...]) -> int:
    """InternVL's configuration gives height and width, Qwen2-VL's one number."""
    return value if isinstance(value, int) else value[0]
