"""What a merged checkpoint says about itself: optmerge.json for programs, a model card for people."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from optmerge.checkpoints.json_files import read_object
from optmerge.checkpoints.output_files import disk_errors
from optmerge.checkpoints.shards import INDEX_NAME
from optmerge.engine.changes import changes_from
from optmerge.engine.output.card import CARD, model_card
from optmerge.engine.output.folder import PROVENANCE
from optmerge.engine.output.public_names import public_names
from optmerge.engine.plan import Action, Plan, TensorPlan
from optmerge.engine.planning.inputs import AdapterExpert, Inputs
from optmerge.engine.running.scales import Scales
from optmerge.errors import InputError
from optmerge.recipe import BASE

FORMAT = 2
"""Version of the form of `optmerge.json`; in 1, identities came from headers, and models had paths."""


def write_provenance(
    plan: Plan,
    inputs: Inputs,
    scales: Scales,
    out: Path,
    identities: Mapping[str, Mapping[str, Any]],
    details: Mapping[str, Any],
) -> None:
    """Writes both files into a folder that holds everything else of the output.

    Args:
        plan: what was done.
        inputs: what it was done with.
        scales: that were chosen.
        out: the folder.
        identities: of the base and of each expert, by name, as `Identities.finish` gives them.
        details: of the run: fingerprint, device, truncation error.

    Raises:
        RunError: the disk is full or failed.
        OutputError: the folder can't be written to.
    """
    names = public_names(plan, inputs)
    with disk_errors(out):
        card = model_card(plan, inputs, scales.plain(plan), names, out, details)
        (out / CARD).write_text(card, "utf-8")
    files = sorted({str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} | {PROVENANCE})
    decided = plan.plain()
    del decided["cost"]  # which depends on the number of cores
    record = {
        "format": FORMAT,
        "files": files,
        "versions": {name: version(name) for name in ("optmerge", "torch", "numpy", "safetensors")}
        | {"python": platform.python_version()},
        **details,
        **names.without_paths(decided),
        "scales": scales.plain(plan),
        "fingerprint": details["fingerprint"],
        "recipe": names.recipe(plan),
        "base": _model(plan.base, names.base, identities[BASE]),
        "experts": [
            _model(expert, public, identities[expert["name"]])
            for expert, public in zip(plan.experts, names.experts, strict=True)
        ],
        "tensors": {tensor.name: _fate(plan, tensor, scales.by_tensor) for tensor in plan.tensors},
        **inputs.base.record,
    }
    assert INDEX_NAME in files or len(plan.shards) < 2, "the index is written before provenance"
    with disk_errors(out):
        (out / PROVENANCE).write_text(json.dumps(record, indent=1) + "\n", "utf-8")


def _fate(plan: Plan, tensor: TensorPlan, scales: Mapping[str, float]) -> dict[str, Any]:
    """What was done to a tensor, why, and at which scale where one was chosen for it."""
    found: dict[str, Any] = {"action": tensor.action.value, "reason": tensor.reason.words}
    if tensor.action is not Action.MERGE:
        return found | {"source": tensor.source}
    found |= {"method": plan.use(tensor).label, "group": tensor.method_index}
    return found | ({"scale": scales[tensor.name]} if tensor.name in scales else {})


def _model(planned: Mapping[str, Any], public: str, identity: Mapping[str, Any]) -> dict[str, Any]:
    """A planned model by its public name; `identity` is of its contents, `headers` of its files' headers."""
    return {**planned, "model": public, "headers": planned["identity"], **identity}


def with_recorded_changes(plan: Plan, out: Path) -> Plan:
    """The plan of a finished merge with what the merge has measured, as its provenance says."""
    try:
        record = read_object(out / PROVENANCE, "provenance")
    except InputError:
        return plan
    warnings, changes = record.get("warnings"), changes_from(record.get("changes"))
    if not isinstance(warnings, list) or not changes:
        return plan
    return replace(plan, changes=changes, warnings=tuple(map(str, warnings)))


def content_hashes(inputs: Inputs) -> dict[str, str]:
    """SHA-256 of everything each model's files hold, by the model's name; reads all of it."""
    found = {BASE: inputs.base.checkpoint.content_hash()}
    for expert in inputs.experts:
        held = expert.adapter if isinstance(expert, AdapterExpert) else expert.checkpoint
        found[expert.name] = held.content_hash()
    return found
