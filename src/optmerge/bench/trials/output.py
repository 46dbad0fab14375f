"""The last step: from records, or from the paper, to a table in the form that is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from optmerge.bench.trials import grid, paper
from optmerge.bench.trials.grid import Grid, Printed
from optmerge.bench.trials.line_scores import RULES, LineScores, Rule, line_scores
from optmerge.bench.trials.pairs import matrix, pairs
from optmerge.bench.trials.rows import rows
from optmerge.bench.trials.tables import headline, table
from optmerge.bench.trials.trials import read_all
from optmerge.errors import InputError, RunError, did_you_mean

if TYPE_CHECKING:
    from rich.console import Console

Form = Literal["terminal", "markdown", "latex", "csv", "json"]
_TEXTS: Mapping[str, Callable[[Grid], str]] = {"markdown": grid.markdown, "latex": grid.latex}
_LISTS: Mapping[str, Callable[[Sequence[Printed]], str]] = {"csv": grid.as_csv, "json": grid.as_json}


def read(folders: Sequence[Path], lines: Sequence[str] = (), n: int | None = None) -> list[LineScores]:
    """The scores that folders of records hold, line by line.

    Args:
        folders: of the records.
        lines: wanted; all if empty.
        n: questions a task; the most there are by default.

    Raises:
        InputError: there is nothing to show.
    """
    found = line_scores(read_all(*folders), n=n)
    where = ", ".join(map(str, folders))
    there = {each.line for each in found}
    for line in lines:
        if there and line not in there:
            raise InputError(f"no records of a line {line!r}", where=where, hint=did_you_mean(line, there))
    if not found:
        raise InputError(
            "there are no records of the benchmark here" + (f" with {n} questions a task" if n else ""),
            where=where,
            hint="make some with `optmerge bench run`, or correct --records",
        )
    return [each for each in found if not lines or each.line in lines]


def show_scores(found: Iterable[LineScores], form: Form, console: Console, rule: Rule | None = None) -> None:
    """The main table of every line.

    Raises:
        RunError: every model of a line failed; the tables of the other lines are shown before.
    """
    everything, grids, words, failures = [], [], [], []
    for line in found:
        if line.failure is not None:
            failures.append(f"nothing of the {line.line} line succeeded; the first failure: {line.failure}")
            continue
        chosen = [row for row in rows(line) if rule in (None, row.scale_rule) or row.kind != "merge"]
        everything += chosen
        title = f"{line.line} line, {line.n} questions a capability"
        grids.append(table(title, chosen, line.notes))
        words.append(headline(chosen))
    if grids:
        show(grids, everything, form, console, words)
    if failures:
        raise RunError("\n".join(failures))


def show_pairs(found: Iterable[LineScores], form: Form, console: Console, rule: Rule | None = None) -> None:
    """Differences between methods, at the rule asked for or at every one there is."""
    everything, grids = [], []
    for line in found:
        for each in RULES if rule is None else (rule,):
            there = any(model.rule == each for model in line.merges)
            if there and (compared := pairs(line, each)):
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
    grids: Sequence[Grid],
    everything: Sequence[Printed],
    form: Form,
    console: Console,
    words: Sequence[str] = (),
) -> None:
    """Tables in a form.

    Args:
        grids: the tables.
        everything: rows, for the forms that are lists: CSV and JSON.
        form: of the output.
        console: gets the output.
        words: sentences below the tables, on a terminal.
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
