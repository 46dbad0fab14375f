"""The router of a routed output: which expert an input is for, known from the experts' weights alone.

What an expert's first layer has learnt lies in the directions of the inputs that it met: the rows of its task
vector are combinations of them. So an input belongs to the expert whose leading directions leave least of it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from optmerge.checkpoints.json_files import read_object
from optmerge.checkpoints.output_files import write_file
from optmerge.deltas import Delta, LowRank
from optmerge.engine.plan import Plan, Routed
from optmerge.engine.running.sources import Sources
from optmerge.errors import CheckpointError, InputError

FOLDER = "experts"
"""Folder of a routed output that holds the router and a folder for every part."""

MERGE = ""
"""The choice of no part: the merge alone answers."""

WEIGHTS, SETTINGS = "router.safetensors", "router.json"

FORMAT = 1
"""Version of the form of `router.json`."""

BLOCK = 1 << 10
"""Outputs of a delta that are multiplied at a time."""

EXACT = 1e-12
"""Eigenvalues of τᵀτ below this share of the largest are rounding, not rank."""

FIRST = 0.625
"""The fewest directions that count, as a share of the most: scores are means over all numbers between."""


@dataclass(frozen=True)
class Router:
    """Which expert an input is for.

    Args:
        experts: names of the experts.
        module: name of the module of the merged model whose input is read.
        directions: (expert, direction, width), orthonormal for each expert, float32.
        first: fewest directions that count.
        threshold: sureness below which no expert is chosen.
    """

    experts: tuple[str, ...]
    module: str
    directions: Tensor
    first: int
    threshold: float

    def losses(self, inputs: Tensor) -> Tensor:
        """What each expert's directions leave of an input, (rows, expert), in logarithms.

        ℓᵢ(x) = mean over r of log(1 − ‖V_{i,r} x‖²/‖x‖²), r from `first` to all directions.

        Args:
            inputs: (rows, width), means over a prompt's tokens.
        """
        unit = torch.nn.functional.normalize(inputs.float(), dim=1)
        squares = torch.einsum("edw,rw->red", self.directions.to(unit.device), unit).square()
        left = 1 - squares.cumsum(2)[:, :, self.first - 1 :]
        return left.clamp(min=1e-6).log().mean(2)

    def choices(self, inputs: Tensor) -> list[str]:
        """The expert for each input; `MERGE` where the second best is nearly as good.

        How sure the choice is: by how much ℓ of the second best expert is above that of the best.
        """
        two, order = self.losses(inputs).sort(dim=1)
        sure = (two[:, 1] - two[:, 0] >= self.threshold).tolist()
        best = order[:, 0].tolist()
        return [self.experts[row] if certain else MERGE for row, certain in zip(best, sure, strict=True)]


def is_routed(folder: Path) -> bool:
    """Whether a folder holds a routed output."""
    return (folder / FOLDER / SETTINGS).is_file()


def read_router(folder: Path) -> Router:
    """The router of a routed output.

    Raises:
        CheckpointError: its files are missing, damaged, or of another version.
    """
    place = folder / FOLDER / SETTINGS
    settings = read_object(place, "router")
    try:
        directions = load_file(folder / FOLDER / WEIGHTS)["directions"].float()
        first, last = map(int, settings["directions"])
        experts = tuple(map(str, settings["experts"]))
        found = Router(experts, str(settings["module"]), directions, first, float(settings["threshold"]))
        right = settings["format"] == FORMAT and 1 <= first <= last
        right = right and directions.shape[:2] == (len(experts), last) and len(experts) > 1
        right = right and all(re.fullmatch(r"\w[\w.-]*", name) for name in experts)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, IndexError) as problem:
        raise CheckpointError(
            "the router can't be read", where=place, got=problem, hint="merge again with output: routed"
        ) from None
    if not right:
        raise CheckpointError(
            "the router's files don't belong together",
            where=place,
            got=f"{len(experts)} experts, directions of shape {list(directions.shape)}",
            hint="merge again with output: routed",
        )
    return found


def write_router(plan: Plan, routed: Routed, sources: Sources, folder: Path) -> Tensor:
    """Writes both files; returns the directions, (expert, direction, width), orthonormal and float16.

    Raises:
        InputError: an expert doesn't change what the router reads.
    """
    tensors = [tensor for tensor in plan.tensors if tensor.name in routed.readers]
    grams = [
        torch.zeros(routed.width, routed.width, dtype=torch.float64, device=sources.device)
        for _ in plan.expert_names
    ]
    for tensor in tensors:
        turned = tensor.layout == "transposed"
        for gram, delta in zip(grams, sources.deltas(tensor, sources.base(tensor)), strict=True):
            _add_products(gram, delta, turned)
    found = [_directions(gram, routed.directions) for gram in grams]
    last = min(len(own) for own in found)
    for expert, own in zip(plan.expert_names, found, strict=True):
        if not len(own):
            raise InputError(
                f"the router can't tell expert {expert!r} from the others",
                where="output",
                got=f"the expert doesn't change {routed.module}",
                expected="experts that all change it",
                hint="write output: dense, or leave the expert out",
            )
    directions = torch.stack([own[:last] for own in found]).half()
    settings = {
        "format": FORMAT,
        "experts": list(plan.expert_names),
        "module": routed.module,
        "directions": [max(1, int(FIRST * last)), last],
        "threshold": routed.threshold,
    }
    write_file(folder / WEIGHTS, save({"directions": directions}))
    write_file(folder / SETTINGS, (json.dumps(settings, indent=2) + "\n").encode())
    return directions


def _add_products(gram: Tensor, delta: Delta, turned: bool) -> None:
    """Adds τᵀτ of a delta, a block of its outputs at a time, so that no float64 copy of it is made."""
    if isinstance(delta, LowRank):
        up, down = (delta.down.T, delta.up.T) if turned else (delta.up, delta.down)
        down = down.double()
        gram.addmm_(down.T @ (up.double().T @ up.double()), down)
        return
    values = delta.values.T if turned else delta.values
    for start in range(0, values.shape[0], BLOCK):
        block = values[start : start + BLOCK].double()
        gram.addmm_(block.T, block)


def _directions(gram: Tensor, most: int) -> Tensor:
    """Leading eigenvectors of τᵀτ, (at most `most`, width), float32; none where the delta is 0."""
    values, vectors = torch.linalg.eigh(gram)
    kept = min(most, int((values > EXACT * values[-1]).sum()))
    leading: Tensor = vectors.flip(1)[:, :kept].T.float().cpu()
    return leading
