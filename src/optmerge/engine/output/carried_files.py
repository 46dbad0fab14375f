"""Everything of the output that isn't weights: copied from the donor, the config's dtype kept true."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from optmerge.architectures import untied, with_vocabulary_size
from optmerge.checkpoints.json_files import read_object
from optmerge.checkpoints.output_files import disk_errors
from optmerge.checkpoints.side_files import copy_side_files
from optmerge.checkpoints.tokenizer_files import add_tokens
from optmerge.engine.plan import Plan
from optmerge.engine.planning.inputs import Inputs

CONFIG = "config.json"


def write_side_files(plan: Plan, inputs: Inputs, out: Path) -> None:
    """Copies the donor's side files; where the donor is no whole model, an adapter say, the base's too.

    The side files of a base that makes its own are written in place of copies.
    """
    folder = inputs.base.checkpoint.folder
    donor = Path(plan.side_files) if plan.side_files is not None else None
    if folder is not None and donor is not None and not (donor / CONFIG).is_file():
        copy_side_files(folder, out)
    if donor is not None:
        copy_side_files(donor, out)
    if inputs.base.side_files is not None:
        inputs.base.side_files(out)
    if inputs.tokens is not None and inputs.tokens.added:
        add_tokens(out, inputs.tokens.added)
    if plan.recipe.output.format == "adapter":
        for name in (CONFIG, "generation_config.json"):
            (out / name).unlink(missing_ok=True)
        return
    config, dtype = out / CONFIG, _dtype(plan, inputs)
    if config.exists():
        data = read_object(config, "model config")
        changed = data if dtype is None else _with_dtype(data, dtype)
        changed = untied(changed) if inputs.base.untied else changed
        if inputs.tokens is not None and inputs.tokens.grown:
            changed = with_vocabulary_size(changed, len(inputs.tokens.base))
        if changed != data:
            with disk_errors(config):
                config.write_text(json.dumps(changed, indent=2) + "\n", "utf-8")


def _dtype(plan: Plan, inputs: Inputs) -> str | None:
    """What the config should say: the recipe's type, or the base's, whose tensors' types the output has."""
    if plan.recipe.dtype != "auto":
        return plan.recipe.dtype
    config = inputs.base.checkpoint.config or {}
    return config.get("dtype") or config.get("torch_dtype")


def _with_dtype(config: dict[str, Any], dtype: str) -> dict[str, Any]:
    """The config with every mention of the weights' type changed; `dtype` added if there is none."""

    def changed(data: dict[str, Any]) -> dict[str, Any]:
        return {
            key: dtype
            if key in ("dtype", "torch_dtype")
            else (changed(value) if isinstance(value, dict) and key.endswith("config") else value)
            for key, value in data.items()
        }

    found = changed(config)
    return found if {"dtype", "torch_dtype"} & set(found) else {**found, "dtype": dtype}
