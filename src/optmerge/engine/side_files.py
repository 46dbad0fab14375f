"""Everything of the output that isn't weights: copied from the donor, the config's dtype kept true."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from optmerge.checkpoints.json_files import read_object
from optmerge.checkpoints.side_files import copy_side_files
from optmerge.engine.inputs import Inputs
from optmerge.engine.plan import Plan

CONFIG = "config.json"


def write_side_files(plan: Plan, inputs: Inputs, out: Path) -> None:
    """Copies the donor's side files; a dense output without a config gets the base's."""
    if plan.side_files is not None:
        copy_side_files(Path(plan.side_files), out)
    if plan.recipe.output.format == "adapter":
        for name in (CONFIG, "generation_config.json"):
            (out / name).unlink(missing_ok=True)
        return
    config = out / CONFIG
    if not config.exists() and inputs.base.checkpoint.config is not None:
        config.write_text(json.dumps(inputs.base.checkpoint.config, indent=2) + "\n", "utf-8")
    if config.exists() and plan.recipe.dtype != "auto":
        data = read_object(config, "model config")
        config.write_text(json.dumps(_with_dtype(data, plan.recipe.dtype), indent=2) + "\n", "utf-8")


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
