"""Where the trained models of a line lie: `ZOO/LINE/{base, experts/SET/TASK, mixture}`.

A mixture that was trained with an expert set lies in `mixture/SET`, or as `experts/SET/mixture`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from optmerge.bench import records
from optmerge.bench.lines.checkpoint import LINES
from optmerge.bench.tasks.registry import registered
from optmerge.errors import CheckpointError


@dataclass(frozen=True)
class Members:
    """The models of a line and one of its expert sets.

    Args:
        line: of models.
        expert_set: number of the set.
        base: folder.
        experts: task → folder of a checkpoint or an adapter.
        mixture: folder of the model trained on every task; None where there is none.
        own_mixture: whether the mixture belongs to the expert set, rather than to the line.
    """

    line: str
    expert_set: int
    base: Path
    experts: Mapping[str, Path]
    mixture: Path | None
    own_mixture: bool


def default_zoo() -> Path:
    """`zoo` of the source tree this package runs from."""
    return Path(__file__).parents[4] / "zoo"


def lines(zoo: Path) -> list[str]:
    """The lines that a zoo holds.

    Raises:
        CheckpointError: none.
    """
    found = [line for line in LINES if (zoo / line).is_dir()]
    if not found:
        raise CheckpointError(
            "There are no models to compare here.",
            where=zoo,
            expected=f"a folder {' or '.join(LINES)}",
            hint="correct --zoo, or make one with `optmerge bench train --line full`",
        )
    return found


def expert_sets(zoo: Path, line: str) -> list[int]:
    """Numbers of the expert sets that a zoo holds."""
    folder = zoo / line / "experts"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdecimal())


def members(zoo: Path, line: str, expert_set: int) -> Members:
    """The models of a line and expert set.

    Raises:
        CheckpointError: one is missing; names its folder and the command that makes it.
    """
    folder = zoo / line
    experts = folder / "experts" / str(expert_set)
    own = next(filter(_is_model, (experts / "mixture", folder / "mixture" / str(expert_set))), None)
    shared = folder / "mixture" if _is_model(folder / "mixture") else None
    found = Members(
        line=line,
        expert_set=expert_set,
        base=folder / "base",
        experts={name: experts / name for name, task in registered().items() if task.trained},
        mixture=own or shared,
        own_mixture=own is not None,
    )
    for path in (found.base, *found.experts.values()):
        if not _is_model(path):
            raise CheckpointError(
                f"A model of the {line} line is missing.",
                where=path,
                expected="a checkpoint or an adapter",
                hint=f"`optmerge bench train --line {line} --seed {expert_set}` makes it; or correct --zoo",
            )
    return found


def weights(found: Members) -> dict[str, str]:
    """Role → SHA-256 of the weights: base, every expert by its task, mixture if there is one."""
    folders = {"base": found.base, **found.experts} | ({"mixture": found.mixture} if found.mixture else {})
    return {role: records.weights_hash(folder) for role, folder in folders.items()}


def _is_model(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("config.json", "adapter_config.json"))
