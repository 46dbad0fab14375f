"""Writing a composed model without a merge: tensors copied from several files, and tensors added to them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from optmerge.checkpoints.checkpoint import Checkpoint
from optmerge.checkpoints.checkpoint_writer import CheckpointWriter
from optmerge.checkpoints.dtypes import dtype_name
from optmerge.checkpoints.output_files import disk_errors
from optmerge.checkpoints.safetensors_format import Header
from optmerge.checkpoints.shards import DEFAULT_SHARD_BYTES, plan_shards
from optmerge.engine.output.folder import PROVENANCE, Mode, OutputFolder, finished_fingerprint
from optmerge.engine.planning.inputs import Inputs
from optmerge.errors import InputError
from optmerge.omni.composed_model import Composition

BLOCK = 1 << 24
"""Elements copied at a time."""


def write_composed(
    composition: Composition,
    out: Path,
    mode: Mode,
    *,
    method: str,
    routes: Mapping[str, Any] | None = None,
    added: Mapping[str, Tensor] | None = None,
) -> None:
    """Writes the composed model's tensors and side files; the folder appears whole.

    The engine's output folder does it: one owner, nothing of an earlier output harmed until this one is
    complete. A resumed run keeps the shards that are complete and writes the others again.

    Args:
        composition: the composed model; its tensors are copied bit for bit.
        out: the output folder.
        mode: as for `optmerge.merge`.
        method: name of what the composed model is, for its provenance.
        routes: `OmniConfig.routes` of the model.
        added: tensors of the routes, by name.

    Raises:
        RunError: the disk is full or failed.
        OutputError: the folder isn't empty, is in use, or can't be written to.
    """
    record = composition.record(method)
    ingredients = _ingredients(record, composition.inputs)
    fingerprint = _digest(ingredients)
    if mode == "resume" and finished_fingerprint(out) == fingerprint:
        return
    with OutputFolder(out, fingerprint, ingredients, mode) as folder:
        try:
            if not folder.complete:
                composition.side_files.write(folder.staging, routes)
                _write_tensors(composition.inputs.base.checkpoint, folder.staging, added or {})
                _write_record(record, fingerprint, folder.staging)
        except InputError:
            folder.discard()
            raise
        folder.publish()


def _write_tensors(view: Checkpoint, staging: Path, added: Mapping[str, Tensor]) -> None:
    specs = [(name, info.dtype, info.shape) for name, info in view.tensors.items()]
    specs += [(name, dtype_name(each.dtype), tuple(each.shape)) for name, each in added.items()]
    shards = plan_shards(specs, DEFAULT_SHARD_BYTES)
    resume = any(staging.glob("*.safetensors*"))
    with view.reader() as reader, CheckpointWriter(staging, shards, resume=resume) as writer:
        for name, info in view.tensors.items():
            for start in range(0, info.numel, BLOCK) if writer.needs(name) else ():
                writer.write_flat(name, start, reader.read_flat(name, start, min(info.numel, start + BLOCK)))
        for name, values in added.items():
            if writer.needs(name):
                writer.write(name, values)
        writer.finish()


def _write_record(record: Mapping[str, Any], fingerprint: str, staging: Path) -> None:
    written = {str(path.relative_to(staging)) for path in staging.rglob("*") if path.is_file()}
    whole = {**record, "files": sorted(written | {PROVENANCE}), "fingerprint": fingerprint}
    with disk_errors(staging):
        (staging / PROVENANCE).write_text(json.dumps(whole, indent=1) + "\n", "utf-8")


def _ingredients(record: Mapping[str, Any], inputs: Inputs) -> dict[str, str]:
    """What decides the output's bytes, each with its fingerprint."""
    experts = zip(inputs.experts, record["experts"], strict=True)
    given = {
        "method": record["composed"],
        "choice of towers": record["towers"],
        "base": [record["base"], _stamps(inputs.base.checkpoint.headers)],
        **{f"expert {each.name!r}": [words, _stamps(each.headers)] for each, words in experts},
        "version of optmerge or torch": [version("optmerge"), version("torch")],
    }
    return {name: _digest(each) for name, each in given.items()}


def _stamps(headers: Mapping[Path, Header]) -> list[list[int]]:
    return [[header.file_bytes, header.modified_ns] for header in headers.values()]


def _digest(data: object) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
