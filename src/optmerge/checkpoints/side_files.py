"""The files of a checkpoint that aren't weights: tokenizer, processor, chat template, code, licences."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path, PurePosixPath

from optmerge.checkpoints.output_files import DISK_FULL, explained
from optmerge.checkpoints.paths import member, require_regular_file
from optmerge.errors import OutputError

_WEIGHTS = re.compile(
    r"\.(safetensors|bin|pt|pth|ckpt|gguf|ggml|h5|msgpack|onnx|onnx_data|tflite|ot|npz|partial)$"
    r"|\.(safetensors|bin|h5|msgpack)\.index\.json$"
)
_LEFTOVERS = re.compile(
    r"^(optimizer|scheduler|rng_state|scaler|trainer_state\.json|training_args|(all|train|eval)_results"
    r"|zero_to_fp32\.py|latest$|events\.out\.tfevents)"
)
_OURS = re.compile(r"^(README\.md|optmerge\.json|adapter_.*)$")
_FOLDERS = re.compile(
    r"^(onnx|openvino|runs|wandb|logs|original|checkpoint-\d+|global_step\d+|__pycache__|\..*)$"
)


def list_side_files(folder: Path) -> list[Path]:
    """Every file of a checkpoint folder that a merged model needs besides its weights and its card.

    Left out: weights in any format and their indexes, what training leaves behind, hidden files,
    README.md and optmerge.json (the merge writes its own), and adapters.

    Returns:
        Paths relative to `folder`, sorted.
    """
    found = []
    for parent, folders, names in os.walk(folder):
        here = Path(parent).relative_to(folder)
        folders[:] = sorted(name for name in folders if not _FOLDERS.match(name))
        found += [here / name for name in names if is_side_file(name, top=here == Path())]
    return sorted(found)


def is_side_file(name: str, *, top: bool = True) -> bool:
    """Whether a file name is that of a side file; `top` says it lies in the folder itself."""
    if name.startswith(".") or _WEIGHTS.search(name.lower()) or _LEFTOVERS.match(name):
        return False
    return not (top and _OURS.match(name))


def copy_side_files(donor: Path, out: Path) -> list[Path]:
    """Copy a folder's side files, following links only inside the folder or its own cached repository.

    Args:
        donor: checkpoint folder.
        out: an existing folder; files of the same name are replaced.

    Returns:
        What was copied, relative to `out`, sorted.

    Raises:
        CheckpointError: a file leads outside the donor or isn't a regular file.
        OutputError: a file can't be copied.
        RunError: the disk is full.
    """
    files = list_side_files(donor)
    sources = [member(donor, str(PurePosixPath(*file.parts)), donor) for file in files]
    for file, source in zip(files, sources, strict=True):
        require_regular_file(source)  # a pipe would block for ever
        try:
            (out / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, out / file)
        except OSError as problem:
            if problem.errno in DISK_FULL:
                raise explained(out / file, problem) from None
            raise OutputError("a side file can't be copied", where=source, got=problem) from None
    return files
