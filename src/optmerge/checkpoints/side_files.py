"""The files of a checkpoint that aren't weights: tokenizer, processor, chat template, code, licences."""

from __future__ import annotations

import io
import os
import pickletools
import re
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

from optmerge.checkpoints.output_files import DISK_FULL, explained
from optmerge.checkpoints.paths import member, require_regular_file
from optmerge.errors import OutputError

PICKLED_WEIGHTS = (
    *("pytorch_model", "model", "consolidated", "adapter_model", "diffusion_pytorch_model", "non_lora"),
    *("weights", "checkpoint", "ckpt", "global_step", "mp_rank", "zero_", "bf16_zero", "optim", "lora"),
)
"""How names of `.pt`, `.pth` and `.npz` files begin that hold a model's weights or an optimizer's state."""

_WEIGHTS = re.compile(
    r"\.(safetensors|bin|ckpt|gguf|ggml|h5|msgpack|onnx|onnx_data|tflite|ot|partial)$"
    r"|\.(safetensors|bin|h5|msgpack)\.index\.json$"
)
_ARCHIVE = re.compile(r"\.(pt|pth|npz)$")
_PARAMETER = re.compile(r".+\.(weight|bias|lora_[AB]\.\w+|gamma|beta|running_mean)(\.npy)?")
_LARGEST_ARCHIVE_BYTES = 64 << 20
_PICKLE_BYTES = 4 << 20

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
    README.md and optmerge.json (the merge writes its own), and adapters. Other tensors than weights stay,
    such as the speakers of Qwen2.5-Omni (`spk_dict.pt`) or of Bark (`.npz`): see `holds_weights`.

    Returns:
        Paths relative to `folder`, sorted.
    """
    found = []
    for parent, folders, names in os.walk(folder):
        here = Path(parent).relative_to(folder)
        folders[:] = sorted(name for name in folders if not _FOLDERS.match(name))
        named = [name for name in names if is_side_file(name, top=here == Path())]
        found += [here / name for name in named if not holds_weights(folder / here / name)]
    return sorted(found)


def holds_weights(path: Path) -> bool:
    """Whether a `.pt`, `.pth` or `.npz` file holds a model's weights; False for files of other names.

    Its name says so, or it is large, or it mentions parameters, as in `layers.0.weight`. The file is looked
    at as text. Nothing in it is loaded or run.
    """
    name = path.name.lower()
    if not _ARCHIVE.search(name):
        return False
    try:
        if name.startswith(PICKLED_WEIGHTS) or path.stat().st_size > _LARGEST_ARCHIVE_BYTES:
            return True
        return any(_PARAMETER.fullmatch(text) or text.startswith("torch.nn.") for text in _texts(path))
    except OSError:
        return False  # whoever copies it says what is wrong


def _texts(path: Path) -> Iterator[str]:
    """Names of members and texts in the pickle of an archive; of a bare pickle, its texts."""
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            yield from _pickled_texts(file.read(_PICKLE_BYTES))
        return
    with zipfile.ZipFile(path) as archive:
        for member_name in archive.namelist():
            yield member_name
            if PurePosixPath(member_name).name == "data.pkl":
                with archive.open(member_name) as file:
                    yield from _pickled_texts(file.read(_PICKLE_BYTES))


def _pickled_texts(data: bytes) -> Iterator[str]:
    """Texts among the operations of pickles in a row, up to where one can't be understood."""
    stream = io.BytesIO(data)
    with suppress(Exception):  # a damaged or hostile pickle raises many things
        while stream.tell() < len(data):
            for _, argument, _ in pickletools.genops(stream):
                if isinstance(argument, str):
                    yield argument


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
            hint = (
                f"make {out / file} writable and the donor's file readable, or name another donor: side_files"
            )
            raise OutputError("a side file can't be copied", where=source, got=problem, hint=hint) from None
    return files
