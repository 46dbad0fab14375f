"""From records of the modality benchmark to its tables in the form that is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from optmerge.bench.modalities import tables
from optmerge.bench.modalities.orders import KIND
from optmerge.bench.modalities.rows import Standing, best, rows, standing
from optmerge.bench.trials.cells import read_all
from optmerge.bench.trials.output import Form, show
from optmerge.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from rich.console import Console


def read(folder: Path, n: int | None = None) -> Standing:
    """The standing that a folder of records holds.

    Args:
        folder: of the records.
        n: questions with the same needs; the most there are by default.

    Raises:
        InputError: there is nothing to show.
    """
    found = standing(read_all(folder, KIND), n)
    if found is None:
        raise InputError(
            "there are no records of the modality benchmark here" + (f" with {n} questions" if n else ""),
            where=folder,
            hint="make some with `optmerge omni run`, or correct --records",
        )
    return found


def show_all(found: Standing, form: Form, console: Console, model: str | None = None) -> None:
    """Complementarity, loss, and what a model makes of each subset of the inputs, by default the best merge.

    Lists, CSV and JSON, hold every number there is.

    Raises:
        InputError: no such model took the test.
    """
    grids = [tables.complementarity(found), tables.loss(found)]
    names = {each.model: each for each in found.entrants}
    if model is not None and model not in names:
        raise InputError(f"no records of a model {model!r}", hint=did_you_mean(model, names))
    shown = [each for each in found.entrants if each.model == model] if model else [best(found)]
    grids += [tables.ablation(found, each) for each in shown if each is not None]
    show(grids, rows(found), form, console, tables.headline(found))


def show_row_form(found: Standing, form: Form, console: Console) -> None:
    """The paper's rows; as a list, the rows they are made of.

    Raises:
        InputError: a list of a table is asked for.
    """
    if form in ("csv", "json"):
        raise InputError("lists hold every number", got=f"--paper --{form}", hint="leave out --paper")
    show([tables.row_form(found)], [], form, console)
