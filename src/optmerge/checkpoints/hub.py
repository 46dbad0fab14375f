"""References to models: a local path, or a hub id whose files are downloaded or cached already."""

from __future__ import annotations

import os
import re
from fnmatch import fnmatch
from pathlib import Path

from optmerge.checkpoints.paths import similar_siblings
from optmerge.checkpoints.side_files import PICKLED_WEIGHTS
from optmerge.errors import CheckpointError, RunError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?", re.ASCII)
_CACHED = "models--"
_PICKLES = ["*.bin", "*.pth", "*.ckpt", *(f"{stem}*.pt" for stem in PICKLED_WEIGHTS)]
_IGNORED = [
    *("*.gguf", "*.h5", "*.msgpack", "*.onnx", "*.ot", "*.tflite", "onnx/*", "openvino/*", "original/*"),
    *("runs/*", "checkpoint-*/*", "optimizer*", "scheduler*", "rng_state*", "consolidated*"),
]


def looks_like_hub_id(ref: str | Path) -> bool:
    """Whether a reference has the form `org/name` or `org/name@revision`; nothing is looked up."""
    return isinstance(ref, str) and ".." not in ref and _HUB_ID.fullmatch(ref) is not None


def names_hub_model(ref: str | Path) -> bool:
    """Whether a reference means a model of the hub: it has the form of a hub id, and isn't a path here."""
    return looks_like_hub_id(ref) and local_path(ref) is None


def local_path(ref: str | Path) -> Path | None:
    """The path that a reference is, `~` spelled out; None where nothing is there."""
    try:
        path = Path(ref).expanduser()
        return path if path.exists() else None
    except (OSError, ValueError, RuntimeError):  # too long; no text; a home that nobody knows
        return None


def hub_id(path: Path) -> str | None:
    """`org/name@commit` of a path in a snapshot of the Hugging Face cache; None elsewhere."""
    for folder in (path, *path.parents):
        repository = folder.parent.parent.name
        if folder.parent.name == "snapshots" and repository.startswith(_CACHED):
            return f"{repository.removeprefix(_CACHED).replace('--', '/', 1)}@{folder.name}"
    return None


def left_on_the_hub(folder: Path) -> tuple[str, ...] | None:
    """Pickles of a hub's repository that aren't in its local snapshot.

    `download` leaves pickles on the hub unless they are allowed. The hub isn't asked: huggingface_hub keeps
    the list of a repository's files when it fetches some.

    Args:
        folder: the snapshot of the Hugging Face cache, or a folder inside.

    Returns:
        Names of the files that the repository holds in that folder and the folder doesn't, sorted; none where
        the folder isn't of a snapshot; None where the list of files isn't kept.
    """
    known = hub_id(folder)
    if known is None:
        return ()
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    name, _, commit = known.partition("@")
    snapshot = next(each for each in (folder, *folder.parents) if each.name == commit)
    try:
        tree = get_cached_repo_tree(name, revision=commit, cache_dir=snapshot.parent.parent.parent)
    except (CachedRepoTreeNotFoundError, OSError, ValueError):
        return None
    files = [file.path for file in tree if _any(_PICKLES, file.path) and not _any(_IGNORED, file.path)]
    here = [Path(file) for file in files if snapshot / Path(file).parent == folder]
    return tuple(sorted(file.name for file in here if not (folder / file.name).exists()))


def _any(patterns: list[str], path: str) -> bool:
    """Whether a file is one of those that the hub's patterns name."""
    return any(fnmatch(path, pattern) for pattern in patterns)


def locate(ref: str | Path, *, allow_pickle: bool = False) -> Path:
    """The local path of a reference; a path that exists wins over a hub id, which is downloaded.

    Raises:
        CheckpointError: neither a path nor a hub id, or as `download`.
    """
    found = local_path(ref)
    if found is not None:
        return found
    path = Path(os.path.expanduser(ref))  # noqa: PTH111 (leaves a home that nobody knows as it is)
    if isinstance(ref, str) and looks_like_hub_id(ref) and similar_siblings(path) is None:
        return download(ref, allow_pickle=allow_pickle)
    hint = similar_siblings(path) or "give a folder, a .safetensors file, or a hub id like org/name"
    raise CheckpointError("no such checkpoint", where=ref, got="nothing at this path", hint=hint)


def download(ref: str, *, allow_pickle: bool = False) -> Path:
    """Local snapshot of a hub id; files that aren't cached are downloaded.

    HF_HUB_OFFLINE, HF_HOME and the like are honoured; pickles are fetched only if allowed.

    Args:
        ref: `org/name` or `org/name@revision`.
        allow_pickle: fetch pickled weights too.

    Raises:
        CheckpointError: no such repository or revision, no access, or offline and not cached.
        RunError: the hub can't be reached.
    """
    # A sixth of the command line's start-up time, for what most merges don't need.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name, _, revision = ref.partition("@")
    ignored = _IGNORED if allow_pickle else [*_IGNORED, *_PICKLES]
    try:
        return Path(snapshot_download(name, revision=revision or None, ignore_patterns=ignored))
    except GatedRepoError:
        hint = f"accept the terms on the hub's page of {name} and run `hf auth login`"
        raise CheckpointError("the repository is gated", where=ref, hint=hint) from None
    except RevisionNotFoundError:
        hint = f"write a branch, tag or commit that the hub's page of {name} lists, or leave @{revision} out"
        raise CheckpointError("no such revision on the hub", where=ref, got=revision, hint=hint) from None
    except RepositoryNotFoundError:
        hint = "check the spelling; run `hf auth login` if it is private; write ./name for a local folder"
        raise CheckpointError("no such checkpoint, locally or on the hub", where=ref, hint=hint) from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        hint = "go online (unset HF_HUB_OFFLINE), or give the path of a local folder"
        raise CheckpointError("the checkpoint isn't in the local cache", where=ref, hint=hint) from None
    except HFValidationError as problem:
        raise CheckpointError(
            "not a hub id",
            where=ref,
            got=problem,
            expected="org/name[@revision]",
            hint="correct the id, or write ./name for a local folder",
        ) from None
    except (HfHubHTTPError, OSError) as problem:
        raise RunError(f"{ref}: the download failed: {problem}") from problem
