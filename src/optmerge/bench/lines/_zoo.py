"""Where models lie in a folder of models: `ZOO/LINE/{base, experts/SET/TASK, mixture}`.

The first expert set may lie beside the base, as `optmerge bench train` leaves it. A mixture that was trained
with an expert set lies in `experts/SET/mixture` or `mixture/SET`. The experts of a set are the models that
lie there under the names of tasks.
"""

from __future__ import annotations

from pathlib import Path

from optmerge.bench import records, tasks
from optmerge.bench.lines._line import Line, Members, registered
from optmerge.errors import CheckpointError, InputError


def default_zoo() -> Path:
    """`zoo` of the source tree that this package runs from.

    Raises:
        InputError: the package is installed without its source tree.
    """
    tree = records.source_tree()
    if tree is None or not (tree / "zoo").is_dir():
        raise InputError(
            "the shipped models aren't part of the installed package",
            where=Path(__file__).resolve().parents[2],
            expected="a checkout of OptMerge's repository, with its folder zoo",
            hint="clone the repository and say where its models are: --zoo CHECKOUT/zoo",
        )
    return tree / "zoo"


def held(zoo: Path) -> list[Line]:
    """The lines that a folder of models holds.

    Raises:
        CheckpointError: it holds none.
    """
    found = [line for line in registered().values() if line.sets(zoo)]
    if not found:
        raise CheckpointError(
            "there are no models to compare here",
            where=zoo,
            expected=f"a folder {' or '.join(registered())}",
            hint="correct --zoo, or make one with `optmerge bench train --line lora`",
        )
    return found


def expert_sets(line: str, zoo: Path) -> list[int]:
    """Numbers of a line's expert sets; of a line without experts the first, which `members` then misses."""
    folder = zoo / line / "experts"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    found = {int(name) for name in names if name.isdecimal()}
    if _models(zoo / line) or ((zoo / line).is_dir() and not found):
        found.add(0)
    return sorted(found)


def members(line: str, zoo: Path, expert_set: int) -> Members:
    """The models of a line and expert set.

    Args:
        line: name of its folder.
        zoo: folder of all models.
        expert_set: number of the set.

    Raises:
        CheckpointError: the base, or every expert of the set, is missing; names the first missing folder and
            the command that makes it.
    """
    folder = zoo / line
    place = folder / "experts" / str(expert_set)
    if expert_set == 0 and not place.is_dir() and _models(folder):
        place = folder
    shared = folder / "mixture"
    own = [path for path in (place / "mixture", shared / str(expert_set)) if _is_model(path)]
    found = Members(
        line=line,
        expert_set=expert_set,
        base=folder / "base",
        experts={name: place / name for name in _models(place)},
        mixture=own[0] if own else shared if _is_model(shared) else None,
        own_mixture=bool(own),
    )
    train = f"optmerge bench train --line {line}"
    if not _is_model(found.base):
        raise _missing(line, found.base, f"{train} --out {folder}")
    if not found.experts:
        first = next(name for name, task in tasks.registered().items() if task.trained)
        command = f"{train} --seed {expert_set} --base {found.base} --out {place}"
        raise _missing(line, place / first, command)
    return found


def _missing(line: str, folder: Path, command: str) -> CheckpointError:
    """The error for a missing model; `command` makes the model of a line that is trained here."""
    from optmerge.bench.lines.tiny.tiny_models import LINES

    return CheckpointError(
        f"a model of the {line} line is missing",
        where=folder,
        expected="a checkpoint or an adapter",
        hint=f"make it with `{command}`, or correct --zoo"
        if line in LINES
        else "put it there, or correct --zoo",
    )


def _models(folder: Path) -> list[str]:
    """The tasks under whose names models lie in a folder, in the order of the tables."""
    return [name for name in tasks.registered() if _is_model(folder / name)]


def _is_model(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("config.json", "adapter_config.json"))
