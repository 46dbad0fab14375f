"""Existing multimodal checkpoints as omni experts, without retraining: the same weights under other names.

A family is one file in this package that declares `IMPORTER`; nothing else needs touching.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from optmerge.checkpoints.hub import locate
from optmerge.checkpoints.json_files import read_object
from optmerge.errors import CheckpointError, InputError
from optmerge.omni.importers._importer import Importer, convert
from optmerge.omni.model import OmniForConditionalGeneration
from optmerge.omni.processor import OmniProcessor

__all__ = ["Importer", "convert", "import_expert", "importers"]


@functools.cache
def importers() -> Mapping[str, Importer]:
    """Every importer by the `model_type` it reads."""
    files = sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))
    found = [importlib.import_module(f"{__name__}.{file}").IMPORTER for file in files]
    return MappingProxyType({importer.model_type: importer for importer in found})


def import_expert(
    source: str | Path, modalities: Sequence[str] | None = None
) -> tuple[OmniForConditionalGeneration, OmniProcessor]:
    """An omni expert that answers as the checkpoint does.

    Args:
        source: folder or hub id of a LLaVA, Video-LLaVA or Qwen2-Audio checkpoint in transformers' form.
        modalities: of its towers; all of them by default.

    Returns:
        Model and processor, for `save_pretrained`.

    Raises:
        InputError: no importer reads it, it has no such tower, or a tower that can't be expressed.
        CheckpointError: it can't be loaded.
    """
    import transformers

    folder = locate(source)
    kind = str(read_object(folder / "config.json", "model config").get("model_type"))
    if kind not in importers():
        raise InputError(
            "no importer reads this checkpoint",
            where=source,
            got=f"model_type {kind}",
            expected=", ".join(importers()),
            hint="give a checkpoint in transformers' form",
        )
    importer = importers()[kind]
    asked = importer.choose(modalities)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        original = getattr(transformers, importer.model_class).from_pretrained(
            folder, dtype="auto", local_files_only=True
        )
    except (OSError, ValueError) as problem:
        raise CheckpointError("transformers can't load this model", where=source, got=problem) from problem
    tokens = {m: tokenizer.convert_ids_to_tokens(importer.token_id(original.config, m)) for m in asked}
    model = convert(original, tokens)
    extractors: dict[str, Any] = {m: importer.extractor(folder, model.config.towers[m]) for m in asked}
    return model, OmniProcessor(tokenizer, model.config.towers, extractors)
