"""Where the trained models of a line lie: `ZOO/LINE/{base, experts/SET/TASK, mixture}`.

The first expert set may lie beside the base, as `optmerge bench train` leaves it. A mixture that was trained
with an expert set lies in `experts/SET/mixture` or `mixture/SET`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from optmerge.bench import records
from optmerge.bench.lines.tiny.checkpoint import LINES
from optmerge.bench.tasks._registry import registered
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
            "there are no models to compare here",
            where=zoo,
            expected=f"a folder {' or '.join(LINES)}",
            hint="correct --zoo, or make one with `optmerge bench train --line lora`",
        )
    return found


def expert_sets(zoo: Path, line: str) -> list[int]:
    """Numbers of the expert sets that a zoo holds."""
    folder = zoo / line / "experts"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    found = {int(name) for name in names if name.isdecimal()}
    return sorted(found | ({0} if _beside_base(zoo / line) else set()))


def members(zoo: Path, line: str, expert_set: int) -> Members:
    """The models of a line and expert set.

    Raises:
        CheckpointError: one is missing; names its folder and the command that makes it.
    """
    folder = zoo / line
    experts = folder / "experts" / str(expert_set)
    if expert_set == 0 and not experts.is_dir() and _beside_base(folder):
        experts = folder
    shared = folder / "mixture"
    own = [path for path in (experts / "mixture", shared / str(expert_set)) if _is_model(path)]
    found = Members(
        line=line,
        expert_set=expert_set,
        base=folder / "base",
        experts={name: experts / name for name in _tasks()},
        mixture=own[0] if own else shared if _is_model(shared) else None,
        own_mixture=bool(own),
    )
    train = f"optmerge bench train --line {line}"
    if not _is_model(found.base):
        raise _missing(line, found.base, f"{train} --out {folder}")
    for path in found.experts.values():
        if not _is_model(path):
            raise _missing(line, path, f"{train} --seed {expert_set} --base {found.base} --out {experts}")
    return found


def _missing(line: str, folder: Path, command: str) -> CheckpointError:
    return CheckpointError(
        f"a model of the {line} line is missing",
        where=folder,
        expected="a checkpoint or an adapter",
        hint=f"make it with `{command}`, or correct --zoo",
    )


def _tasks() -> list[str]:
    return [name for name, task in registered().items() if task.trained]


def _beside_base(folder: Path) -> bool:
    """Whether a line's first expert set lies beside its base."""
    return any(_is_model(folder / name) for name in _tasks())


def weights(found: Members) -> dict[str, str]:
    """Role → SHA-256 of the weights: base, every expert by its task, mixture if there is one."""
    folders = {"base": found.base, **found.experts} | ({"mixture": found.mixture} if found.mixture else {})
    return {role: records.weights_hash(folder) for role, folder in folders.items()}


def _is_model(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("config.json", "adapter_config.json"))
