"""The last step of the modality benchmark: from records to tables in the form that is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from optmerge.bench.modalities import tables
from optmerge.bench.modalities.rows import best, rows, scores_of_modalities
from optmerge.bench.trials.line_scores import LineScores
from optmerge.bench.trials.output import Form, show
from optmerge.bench.trials.trials import read_all
from optmerge.errors import InputError, RunError, did_you_mean

if TYPE_CHECKING:
    from rich.console import Console


def read(folders: Sequence[Path], n: int | None = None) -> LineScores:
    """The scores that folders of records hold.

    Args:
        folders: of the records.
        n: questions with the same needs; the most there are by default.

    Raises:
        InputError: there is nothing to show.
    """
    found = scores_of_modalities(read_all(*folders, benchmark="modalities"), n)
    if found is None:
        raise InputError(
            "there are no records of the modality benchmark here" + (f" with {n} questions" if n else ""),
            where=", ".join(map(str, folders)),
            hint="make some with `optmerge omni run`, or correct --records",
        )
    return found


def show_all(found: LineScores, form: Form, console: Console, model: str | None = None) -> None:
    """Complementarity, loss, and what a model makes of each subset of the inputs, by default the best merge.

    Lists, CSV and JSON, hold every number there is.

    Raises:
        InputError: no model with that label took the test.
        RunError: every model failed.
    """
    if found.failure is not None:
        raise RunError(f"nothing succeeded; the first failure: {found.failure}")
    labels = {each.label for each in found.models}
    if model is not None and model not in labels:
        raise InputError(f"no records of a model {model!r}", hint=did_you_mean(model, labels))
    grids = [tables.complementarity(found), tables.loss(found)]
    shown = [each for each in found.models if each.label == model] if model else [best(found)]
    grids += [tables.ablation(found, each) for each in shown if each is not None]
    show(grids, rows(found), form, console, tables.headline(found))


def show_row_form(found: LineScores, form: Form, console: Console) -> None:
    """The paper's rows; as a list, the rows they are made of.

    Raises:
        InputError: a list of a table is asked for.
    """
    if form in ("csv", "json"):
        raise InputError("lists hold every number", got=f"--paper --{form}", hint="leave out --paper")
    show([tables.row_form(found)], [], form, console)
