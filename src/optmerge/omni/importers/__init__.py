"""Existing multimodal checkpoints as omni experts, without retraining: the same weights under other names.

A family is one file in this package that declares `IMPORTER`; nothing else needs touching. Another package
adds families by entry points in the group `optmerge.importers`, each naming a module that declares
`IMPORTER`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optmerge.checkpoints.hub import locate
from optmerge.checkpoints.json_files import read_object
from optmerge.errors import CheckpointError, InputError
from optmerge.omni.importers._importer import Importer, convert, importers
from optmerge.omni.model import OmniForConditionalGeneration
from optmerge.omni.processor import OmniProcessor

__all__ = ["Importer", "convert", "import_expert", "importers"]


def import_expert(
    source: str | Path, modalities: Sequence[str] | None = None
) -> tuple[OmniForConditionalGeneration, OmniProcessor]:
    """An omni expert that answers as the checkpoint does.

    Args:
        source: folder or hub id of a LLaVA, Video-LLaVA or Qwen2-Audio checkpoint in transformers' form.
        modalities: modalities of the towers to keep; all of them by default.

    Returns:
        Model and processor, for `save_pretrained`.

    Raises:
        InputError: no importer reads the checkpoint, it has no such tower, or no kind of tower can express
            its own.
        CheckpointError: the checkpoint can't be loaded.
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
