"""Which files of a folder are its weights, and whether its index agrees with them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optmerge.checkpoints.hub import hub_id
from optmerge.checkpoints.json_files import read_object
from optmerge.checkpoints.paths import is_file, member
from optmerge.checkpoints.safetensors_format import TensorInfo
from optmerge.errors import CheckpointError

ADAPTER_CONFIG = "adapter_config.json"
_INDEX = ".index.json"


@dataclass(frozen=True)
class Weights:
    """The weight files of a folder.

    Args:
        files: paths, sorted.
        index: tensor name → file name; None for a single file without an index.
        index_path: the index file, if there is one.
        index_total_size: size of all tensors in bytes according to the index; recorded, not trusted.
        pickled: the files are PyTorch pickles.
    """

    files: tuple[Path, ...]
    index: Mapping[str, str] | None = None
    index_path: Path | None = None
    index_total_size: int | None = None
    pickled: bool = False


def is_adapter(path: Path | str) -> bool:
    """Whether a local path is a PEFT adapter folder."""
    return (Path(path) / ADAPTER_CONFIG).is_file()


def find_weights(folder: Path, *, allow_pickle: bool = False) -> Weights:
    """The weight files of a checkpoint folder.

    Raises:
        CheckpointError: none, several that could be meant, only pickles while those aren't allowed,
            an adapter, a malformed index, or a file outside the folder.
    """
    names = sorted(entry.name for entry in folder.iterdir())
    found = _choose(folder, names, "model", ".safetensors")
    if found is not None:
        return _weights(folder, found, pickled=False)
    if is_adapter(folder):
        hint = "give it as an expert; the base must be a full checkpoint"
        raise CheckpointError("the folder holds an adapter, not a checkpoint", where=folder, hint=hint)
    pickled = _choose(folder, names, "pytorch_model", ".bin")
    if pickled is None:
        raise _no_weights(folder, names, allow_pickle)
    if not allow_pickle:
        hint = "convert the checkpoint to safetensors, or write `allow_pickle: true` in the recipe"
        raise CheckpointError("the checkpoint is a pickle", where=folder / pickled, got=pickled, hint=hint)
    return _weights(folder, pickled, pickled=True)


def _choose(folder: Path, names: list[str], stem: str, suffix: str) -> str | None:
    """Name of the index or single file with the usual name, else of the only candidate; None without any."""
    single, index = stem + suffix, stem + suffix + _INDEX
    if single in names and index in names:
        hint = f"remove the one that is left over ({single}, or {index} and its shards)"
        raise CheckpointError(
            "the folder holds two checkpoints", where=folder, got=f"{single}, {index}", hint=hint
        )
    for name in (single, index):
        if name in names:
            return name
    if suffix == ".bin":  # other .bin files are optimizer states and the like
        return None
    files = [name for name in names if name.endswith(suffix) and not name.startswith(("adapter_", "."))]
    candidates = [name for name in names if name.endswith(suffix + _INDEX)] or files
    if len(candidates) > 1:
        got = ", ".join(candidates[:5]) + (" …" if len(candidates) > 5 else "")
        hint = f"give one file's path, or add the index {index} if they are shards of one checkpoint"
        raise CheckpointError("several files could be the checkpoint", where=folder, got=got, hint=hint)
    return candidates[0] if candidates else None


_STATES: tuple[tuple[re.Pattern[str], tuple[str, str]], ...] = (
    (
        re.compile(r"\.distcp$|^pytorch_model_fsdp_\d+$"),
        ("shards of PyTorch's distributed checkpoint", "gather them: `accelerate merge-weights SHARDS OUT`"),
    ),
    (
        re.compile(r"^global_step\d+$|^zero_to_fp32\.py$|^(mp_rank|zero_pp_rank|bf16_zero)_.*\.pt$"),
        (
            "DeepSpeed's state of training",
            "gather it: in that folder run `python zero_to_fp32.py . OUT --safe_serialization`",
        ),
    ),
    (
        re.compile(r"^consolidated\.\d+\.pth$"),
        ("weights in Meta's original layout", "convert them with transformers' convert_llama_weights_to_hf"),
    ),
    (
        re.compile(r"^(optimizer|scheduler)\.(pt|bin)$"),
        ("an optimizer's state", "give the folder of the model that was saved beside it"),
    ),
)
"""What a folder without weights may hold instead → what it is, and what makes a checkpoint of it."""


_FOREIGN = (".gguf", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx")


def _no_weights(folder: Path, names: list[str], allow_pickle: bool) -> CheckpointError:
    others = [name for name in names if name.endswith(_FOREIGN)]
    got = ", ".join(others[:3]) or ", ".join(names[:5]) or "an empty folder"
    hint = "give the folder that holds the weights themselves"
    if others:
        hint = "convert the weights to safetensors (save_pretrained does)"
    if others and others[0].endswith(".gguf"):
        hint = "GGUF weights are quantised for inference; get the original safetensors checkpoint"
    states = next((words for pattern, words in _STATES if any(pattern.search(name) for name in names)), None)
    if states:
        got, hint = states
    expected = "model.safetensors, model.safetensors.index.json and its shards, or one *.safetensors"
    what = "the folder holds no checkpoint"
    if hub_id(folder) is not None and not allow_pickle:
        what = "the hub's repository holds no safetensors"
        hint = PICKLES_NOT_FETCHED
    return CheckpointError(what, where=folder, got=got, expected=expected, hint=hint)


PICKLES_NOT_FETCHED = (
    "pickled weights (.bin, .pt) are downloaded only where they are allowed: if the repository has them, "
    "write `allow_pickle: true` in the recipe, or convert them to safetensors"
)


def _weights(folder: Path, name: str, *, pickled: bool) -> Weights:
    path = member(folder, name, folder)
    if not name.endswith(_INDEX):
        return Weights((path,), pickled=pickled)
    index = read_object(path, "index")
    weight_map, metadata = index.get("weight_map"), index.get("metadata")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        expected = "weight_map: an object from tensor names to file names"
        raise CheckpointError(
            "the index has no usable weight_map", where=path, expected=expected, hint=_INDEX_AGAIN
        )
    names = sorted(set(weight_map.values()))
    files = tuple(_shard(folder, file, path, pickled) for file in names)
    return Weights(files, weight_map, path, _total_size(metadata), pickled)


_INDEX_AGAIN = "download the index again, or remove it and load and save the checkpoint with transformers"


def _shard(folder: Path, name: str, index: Path, pickled: bool) -> Path:
    path = member(folder, name, index)
    if not name.endswith(".bin" if pickled else ".safetensors"):
        expected = "PyTorch pickles (.bin)" if pickled else "safetensors files"
        raise CheckpointError(
            "the index names a file of another format",
            where=index,
            got=name,
            expected=expected,
            hint=_INDEX_AGAIN,
        )
    if not is_file(path):
        hint = f"download {name} again, or remove the folder from the cache"
        raise CheckpointError("a shard that the index names is missing", where=index, got=name, hint=hint)
    return path


def _total_size(metadata: Any) -> int | None:
    size = metadata.get("total_size") if isinstance(metadata, dict) else None
    usable = isinstance(size, int | float) and 0 <= size < 2**63  # old transformers wrote floats
    return int(size) if usable and size is not None else None


def check_index(folder: Path, weights: Weights, by_file: Mapping[Path, Mapping[str, TensorInfo]]) -> None:
    """Check that the index and the shards list the same tensors in the same files.

    Raises:
        CheckpointError: a tensor is not in its shard, not in the index, or in two shards.
    """
    if weights.index is None:
        return
    for name in sorted(weights.index):
        file = folder / weights.index[name]
        if name not in by_file[file]:
            hint = "the shard and the index come from different saves; download both again"
            raise CheckpointError(f"tensor {name} isn't in its shard", where=file, expected=name, hint=hint)
    for file, tensors in by_file.items():
        for name in tensors:
            home = weights.index.get(name)
            if home is None:
                hint = "the shard and the index come from different saves; download both again"
                raise CheckpointError(f"tensor {name} isn't in the index", where=file, hint=hint)
            if folder / home != file:
                got = f"{file.name} and {home}"
                raise CheckpointError(
                    f"tensor {name} is in two shards",
                    where=weights.index_path,
                    got=got,
                    expected=home,
                    hint="the shards come from different saves; download them again",
                )
