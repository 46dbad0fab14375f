"""From records, or from the paper, to a table in the form that is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from optmerge.bench.trials import grid, paper
from optmerge.bench.trials.cells import read_all
from optmerge.bench.trials.entrants import RULES, Rule, Standing, standings
from optmerge.bench.trials.grid import Grid
from optmerge.bench.trials.pairs import matrix, pairs
from optmerge.bench.trials.rows import rows
from optmerge.bench.trials.tables import headline, table
from optmerge.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from rich.console import Console

Form = Literal["terminal", "markdown", "latex", "csv", "json"]
_TEXTS: Mapping[str, Callable[[Grid], str]] = {"markdown": grid.markdown, "latex": grid.latex}
_LISTS: Mapping[str, Callable[[Sequence[Any]], str]] = {"csv": grid.as_csv, "json": grid.as_json}


def read(folder: Path, lines: Sequence[str] = (), n: int | None = None) -> list[Standing]:
    """The standings that a folder of records holds.

    Args:
        folder: of the records.
        lines: wanted; all if empty.
        n: questions a task; the most there are by default.

    Raises:
        InputError: there is nothing to show.
    """
    found = standings(read_all(folder), n=n)
    there = {standing.line for standing in found}
    for line in lines:
        if there and line not in there:
            raise InputError(f"no records of a line {line!r}", where=folder, hint=did_you_mean(line, there))
    if not found:
        raise InputError(
            "there are no records of the benchmark here" + (f" with {n} questions a task" if n else ""),
            where=folder,
            hint="make some with `optmerge bench run`, or correct --records",
        )
    return [standing for standing in found if not lines or standing.line in lines]


def show_scores(found: Iterable[Standing], form: Form, console: Console, rule: Rule | None = None) -> None:
    """The main table of every line."""
    everything, grids, words = [], [], []
    for standing in found:
        chosen = [row for row in rows(standing) if rule in (None, row.scale_rule) or not row.scales]
        everything += chosen
        title = f"{standing.line} line, {standing.n} questions a capability"
        grids.append(table(title, chosen, standing.notes))
        words.append(headline(chosen))
    show(grids, everything, form, console, words)


def show_pairs(found: Iterable[Standing], form: Form, console: Console, rule: Rule | None = None) -> None:
    """Differences between methods, at the rule asked for or at every one there is."""
    everything, grids = [], []
    for standing in found:
        for each in RULES if rule is None else (rule,):
            there = any(entrant.rule == each and entrant.merged for entrant in standing.entrants)
            if there and (compared := pairs(standing, each)):
                everything += compared
                grids.append(matrix(compared))
    if not grids:
        raise InputError("there are no two methods to compare", hint="run another, or choose another --rule")
    show(grids, everything, form, console)


def show_paper(form: Form, console: Console) -> None:
    """The published tables."""
    found = {model: paper.rows(model) for model in paper.TABLES}
    grids = [table(f"{model}, published", each, paper.NOTES) for model, each in found.items()]
    show(grids, [row for each in found.values() for row in each], form, console)


def show(
    grids: Sequence[Grid], everything: Sequence[Any], form: Form, console: Console, words: Sequence[str] = ()
) -> None:
    """Tables in a form.

    Args:
        grids: the tables.
        everything: rows that the forms that are lists hold instead.
        form: which.
        console: gets it.
        words: sentences below, on a terminal.
    """
    if form in _LISTS:
        console.out(_LISTS[form](everything), end="", highlight=False)
    elif form in _TEXTS:
        console.out("\n".join(map(_TEXTS[form], grids)), end="", highlight=False)
    else:
        for each in grids:
            console.print(grid.terminal(each, console.width))
        for sentence in filter(None, words):
            console.print(sentence, highlight=False, markup=False)
