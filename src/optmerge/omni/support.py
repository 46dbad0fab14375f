"""What `optmerge verify` needs to load and check omni models, which transformers has no class for.

An architecture names such a module as its `support`. The module has `MODEL` (the class), `smoke_inputs` (what
it is asked), `SMOKE` (that in words) and `check_code`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from optmerge.checkpoints.json_files import read_object
from optmerge.engine.output.folder import PROVENANCE
from optmerge.errors import InputError
from optmerge.omni.carried_code import AUTO_MAP, carried_code, code_hash
from optmerge.omni.config import OmniConfig
from optmerge.omni.model import OmniForConditionalGeneration
from optmerge.omni.processor import OmniProcessor

MODEL = OmniForConditionalGeneration
SMOKE = "one item for each tower"

_SIDE, _SECONDS = 32, 0.5

_ITEMS: Mapping[str, Callable[[Any, Any], Any]] = {
    "image": lambda tower, extractor: _grey(),
    "audio": lambda tower, extractor: np.zeros(round(_SECONDS * extractor.sampling_rate), np.float32),
    "video": lambda tower, extractor: [_grey()] * (tower.frames or 1),
}
_ARGUMENTS = {"image": "images", "audio": "audio", "video": "videos"}


def smoke_inputs(folder: Path) -> Mapping[str, Tensor]:
    """Inputs of a prompt with one item for each tower: a grey picture, silence, grey frames.

    Args:
        folder: the model's folder; its processor makes the inputs.

    Raises:
        CheckpointError: the folder holds no omni processor.
    """
    processor = OmniProcessor.from_pretrained(folder, local_files_only=True)
    items: dict[str, Any] = {
        _ARGUMENTS[modality]: [_ITEMS[modality](tower, processor.extractors[modality])]
        for modality, tower in processor.towers.items()
    }
    prompt = " ".join(str(tower.token) for tower in processor.towers.values())
    found: Mapping[str, Tensor] = processor(prompt, **items)
    return found


def check_code(folder: Path) -> tuple[None, bool | None, str]:
    """Whether the code that a model carries is what this version of OptMerge writes; the code isn't run.

    Returns:
        None, whether all is well (None: the model carries no code, or another version's), and what was found.
    """
    config = OmniConfig.from_pretrained(folder, local_files_only=True)
    files = {path.name: path.read_bytes() for path in sorted(folder.rglob("*.py"))}
    auto_map = getattr(config, "auto_map", None)
    if not files and not auto_map:
        return None, None, "none carried: the model loads where OptMerge is installed"
    expected = carried_code(config.towers)
    other = sorted(
        name
        for name in files.keys() | expected.keys()
        if files.get(name) != (expected[name].encode() if name in expected else None)
    )
    if not other and auto_map == AUTO_MAP:
        return (
            None,
            True,
            f"{len(files)} files as this version writes them, sha256 {code_hash(expected)[:12]}",
        )
    what = f"{', '.join(other[:3])}" if other else "auto_map"
    writer = _writer(folder)
    if writer and writer != version("optmerge"):
        return None, None, f"{what}: not as this version writes; OptMerge {writer} wrote the model"
    return None, False, f"{what}: not as OptMerge writes; read the code before anyone trusts it"


def _writer(folder: Path) -> str | None:
    """Version of OptMerge that wrote the model's code, as its provenance says."""
    try:
        found = read_object(folder / PROVENANCE, "provenance").get("code")
    except InputError:
        return None
    told = found.get("optmerge") if isinstance(found, dict) else None
    return told if isinstance(told, str) else None


def _grey() -> Any:
    from PIL import Image

    return Image.new("RGB", (_SIDE, _SIDE), (128, 128, 128))
