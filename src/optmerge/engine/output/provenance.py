"""What a merged checkpoint says about itself: optmerge.json for programs, a model card for people."""

from __future__ import annotations

import json
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from optmerge.checkpoints.json_files import read_object
from optmerge.checkpoints.output_files import disk_errors
from optmerge.checkpoints.paths import member, require_regular_file
from optmerge.checkpoints.shards import INDEX_NAME
from optmerge.engine.changes import changes_from, percent
from optmerge.engine.output.folder import PROVENANCE
from optmerge.engine.plan import Action, Change, MethodUse, Plan
from optmerge.engine.planning.inputs import AdapterExpert, Inputs
from optmerge.engine.running.scales import Scales, scale_words
from optmerge.errors import InputError
from optmerge.recipe import BASE
from optmerge.recipe.files import PlainLoader

CARD = "README.md"
_CARD_BYTES, _LICENCE_LENGTH = 100_000, 100


def write_provenance(
    plan: Plan, inputs: Inputs, scales: Scales, out: Path, details: Mapping[str, Any]
) -> None:
    """Writes both files into a folder that holds everything else of the output.

    Raises:
        RunError: the disk is full or failed.
        OutputError: the folder can't be written to.
    """
    with disk_errors(out):
        (out / CARD).write_text(model_card(plan, inputs, scales.plain(plan), details), "utf-8")
    files = sorted({str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} | {PROVENANCE})
    record = {
        "format": 1,
        "files": files,
        "versions": {name: version(name) for name in ("optmerge", "torch", "numpy", "safetensors")}
        | {"python": platform.python_version()},
        **details,
        **plan.plain(),
        "scales": scales.plain(plan),
    }
    record["fingerprint"] = details["fingerprint"]
    del record["cost"]  # which depends on the number of cores
    record["tensors"] = {
        tensor.name: {
            "action": tensor.action.value,
            "reason": tensor.reason.words,
            **(
                {
                    "method": plan.use(tensor).name,
                    "group": tensor.method_index,
                    **({"scale": scales.by_tensor[tensor.name]} if tensor.name in scales.by_tensor else {}),
                }
                if tensor.action is Action.MERGE
                else {"source": tensor.source}
            ),
        }
        for tensor in plan.tensors
    }
    assert INDEX_NAME in files or len(plan.shards) < 2, "the index is written before provenance"
    with disk_errors(out):
        (out / PROVENANCE).write_text(json.dumps(record, indent=1) + "\n", "utf-8")


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


def model_card(
    plan: Plan, inputs: Inputs, scales: Sequence[Mapping[str, Any] | None], details: Mapping[str, Any]
) -> str:
    """A model card with the hub's metadata: base models, licences, recipe."""
    licences = _licences(plan, inputs)
    known = sorted({licence for licence in licences.values() if licence})
    head: dict[str, Any] = {
        "base_model": [_public(plan.recipe.base), *(_public(each.model) for each in plan.recipe.experts)],
        "base_model_relation": "merge",
        "library_name": "peft" if plan.recipe.output.format == "adapter" else "transformers",
        "tags": ["merge", "optmerge"],
    }
    if known:
        head["license"] = known[0] if len(known) == 1 and all(licences.values()) else "other"
    return "\n".join(
        [
            "---",
            yaml.safe_dump(head, sort_keys=False, allow_unicode=True).strip(),
            "---",
            "",
            "# Merged model",
            "",
            f"Merged with OptMerge {version('optmerge')} by {_method_words(plan.methods[0], scales[0])}, "
            f"from one base and {len(plan.experts)} expert{'s' if len(plan.experts) > 1 else ''}.",
            "",
            "| model | role | weight | licence |",
            "|---|---|---|---|",
            *_model_rows(plan, licences),
            "",
            "## What was done",
            "",
            *_action_rows(plan, scales),
            "",
            *_truncation_words(details),
            *_change_rows(plan.changes),
            "## Recipe",
            "",
            "```yaml",
            yaml.safe_dump(_short(plan), sort_keys=False, allow_unicode=True).strip(),
            "```",
            "",
            f"Every tensor's fate and the inputs' identities are in `{PROVENANCE}`.",
            "",
        ]
    )


def _model_rows(plan: Plan, licences: Mapping[str, str | None]) -> list[str]:
    rows = [f"| {_public(plan.recipe.base)} | base | | {licences['base'] or 'not stated'} |"]
    for name, spec in zip(plan.expert_names, plan.recipe.experts, strict=True):
        licence = licences[name] or "not stated"
        rows.append(f"| {_public(spec.model)} | expert `{name}` | {spec.weight:g} | {licence} |")
    return rows


def _action_rows(plan: Plan, scales: Sequence[Mapping[str, Any] | None]) -> list[str]:
    counts = Counter((tensor.action, tensor.reason.words, tensor.method_index) for tensor in plan.tensors)
    rows = []
    for (action, reason, index), count in sorted(counts.items(), key=lambda item: -item[1]):
        how = (
            f"merged by {_method_words(plan.methods[index], scales[index])}" if index is not None else action
        )
        rows.append(f"* {count} tensors: {how} ({reason})")
    return rows


def _change_rows(changes: Sequence[Change]) -> list[str]:
    """A table of how far the experts moved, with what the output hasn't of it."""
    if not changes:
        return []
    rows = [
        f"| `{each.expert}` | {each.component} ({', '.join(each.kinds)}) | {percent(each)} "
        f"| {'yes' if each.kept else 'no'} |"
        for each in changes
        if each.kept or each.changed
    ]
    head = ["## What the experts changed", "", "| expert | component | ‖τ‖/‖W₀‖ | in this model |"]
    return [*head, "|---|---|---|---|", *rows, ""]


def _method_words(use: MethodUse | None, chosen: Mapping[str, Any] | None) -> str:
    if use is None:
        return "a copy"
    parameters = ", ".join(f"{key} {value}" for key, value in use.parameters.items() if value is not None)
    scale = f"{use.scale:g}" if chosen is None else scale_words(chosen)
    return f"`{use.name}` (scale {scale}{', ' + parameters if parameters else ''})"


def _truncation_words(details: Mapping[str, Any]) -> list[str]:
    error = details.get("truncation")
    if error is None:
        return []
    return [f"Relative error of the adapter's truncation, ‖M − M_r‖/‖M‖: {error:.3g}.", ""]


def _short(plan: Plan) -> dict[str, Any]:
    """The recipe without its defaults, local paths by their last part."""
    data = plan.recipe.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    data["base"] = _public(plan.recipe.base)
    for expert in data["experts"]:
        expert["model"] = _public(expert["model"])
    if "side_files" in data:
        data["side_files"] = {"from": _public(plan.recipe.side_files.donor)}
    return data


def _public(model: str) -> str:
    """A hub id as it is; of a local path only the last part, since a card is published."""
    path = Path(model)
    return path.resolve().name if path.exists() else model


def _licences(plan: Plan, inputs: Inputs) -> dict[str, str | None]:
    """Licence that each input's own card states."""
    folders: dict[str, Path | None] = {"base": inputs.base.checkpoint.folder}
    for expert in inputs.experts:
        folders[expert.name] = expert.folder
    return {name: _stated_licence(folder) if folder else None for name, folder in folders.items()}


def _stated_licence(folder: Path) -> str | None:
    """What the card of a model says; None where there is none to be understood, and nobody vouches for it."""
    try:
        card = member(folder, CARD, folder)
        require_regular_file(card)
        with card.open("rb") as file:
            text = file.read(_CARD_BYTES).decode("utf-8", "replace")
        parts = text.split("---", 2)
        head = yaml.load(parts[1], PlainLoader) if text.startswith("---") and len(parts) == 3 else None
    except (OSError, InputError, yaml.YAMLError, ValueError, RecursionError):
        return None
    licence = head.get("license") if isinstance(head, dict) else None
    usable = isinstance(licence, str) and licence.isprintable() and len(licence) <= _LICENCE_LENGTH
    return licence if usable else None
