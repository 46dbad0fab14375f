"""Synthetic checkpoints and adapters in real shapes: random weights, experts a small step away; resumable."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from perf.shapes import CASES, tensors

from optmerge.checkpoints.adapter_writer import write_adapter
from optmerge.checkpoints.checkpoint_writer import CheckpointWriter
from optmerge.checkpoints.shards import plan_shards
from optmerge.deltas import LowRank

WEIGHT, STEP = 0.02, 0.0005
"""Standard deviations of the weights and of an expert's change; as fine-tuning does: a few percent."""
DONE = ".complete"
Stored = tuple[str, tuple[int, ...]]
"""Name and shape of a tensor."""


def once(folder: Path, fill: Callable[[Path], None]) -> Path:
    """The folder, filled unless it was before; what was left half-filled is filled again."""
    if not (folder / DONE).exists():
        folder.mkdir(parents=True, exist_ok=True)
        fill(folder)
        (folder / DONE).touch()
    return folder


def checkpoint(root: Path, case: str, expert: int | None) -> Path:
    """A full checkpoint in bfloat16: the base (expert None) or the base plus noise; made once."""

    def fill(folder: Path) -> None:
        config, stored = tensors(CASES[case])
        (folder / "config.json").write_text(json.dumps(config))
        weights(folder, stored, expert)

    return once(root / case / ("base" if expert is None else f"expert{expert}"), fill)


def weights(folder: Path, stored: Sequence[Stored], expert: int | None = None, prefix: str = "") -> None:
    """Writes the tensors; those of one name behind the prefix are the same wherever they are written."""
    shards = plan_shards([(name, "BF16", shape) for name, shape in stored], 5 * 10**9)
    with CheckpointWriter(folder, shards) as writer:
        for name, shape in stored:
            drawn = name.removeprefix(prefix)
            values = _noise(drawn, shape, 0) * WEIGHT
            if expert is not None:
                values += _noise(drawn, shape, expert + 1) * STEP
            writer.write(name, values.to(torch.bfloat16))
        writer.finish()


def adapter(root: Path, case: str, expert: int, rank: int) -> Path:
    """A PEFT adapter of that rank on every linear layer of the language model; made unless it is there."""
    return adapter_of(root / case / "base", lambda: tensors(CASES[case])[1], expert, rank)


def adapter_of(base: Path, stored: Callable[[], Sequence[Stored]], expert: int, rank: int) -> Path:
    """The same for a checkpoint with these tensors; it lies beside it."""

    def fill(folder: Path) -> None:
        factors = {
            name: LowRank(
                _noise(name, (shape[0], rank), 100 + expert) * 0.02,
                _noise(name, (rank, shape[1]), 200 + expert) * 0.02,
            )
            for name, shape in stored()
            if "language_model." in name and ".layers." in name and len(shape) == 2
        }
        write_adapter(folder, factors, base_model_name=str(base), dtype=torch.bfloat16)

    return once(base.parent / f"adapter{expert}-r{rank}", fill)


def _noise(name: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()) + seed)
    return torch.randn(shape, generator=generator)
