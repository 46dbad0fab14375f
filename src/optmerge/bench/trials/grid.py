"""Tables ready to be shown, and the forms they are shown in: terminal, Markdown, LaTeX, CSV, JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table


@dataclass(frozen=True)
class Entry:
    """One field.

    Args:
        text: what it says.
        doubt: what follows the sign ±.
        best: shown in bold.
    """

    text: str
    doubt: str = ""
    best: bool = False


@dataclass(frozen=True)
class Grid:
    """A table.

    Args:
        title: above it.
        columns: heads.
        words: how many columns hold words, and are left-aligned.
        sections: rows between two rules.
        notes: below it.
    """

    title: str
    columns: tuple[str, ...]
    words: int
    sections: tuple[tuple[tuple[Entry, ...], ...], ...]
    notes: tuple[str, ...] = ()


def terminal(grid: Grid, width: int) -> RenderableType:
    """A table for a console, `width` characters wide.

    Where there isn't room for everything, what follows ± is left out first. Then heads are cut short and
    columns move together. Then columns are left out from the right. A note says what is missing.
    """
    from rich.console import Console, Group
    from rich.text import Text

    everything = len(grid.columns)
    ways = [(True, False, everything), (False, False, everything)]
    ways += [(False, True, count) for count in range(everything, grid.words, -1)]
    console = Console(width=10_000)
    for doubts, short, count in ways:
        shown = _rich(grid, doubts=doubts, short=short, count=count)
        if console.measure(shown).maximum <= width:
            break
    notes = [*grid.notes]
    missing = [*grid.columns[count:]]
    if _doubtful(grid) and not doubts:
        missing.insert(0, "±")
    if missing:
        notes.append(f"no room here for {', '.join(missing)}; a wider terminal has it")
    return Group(
        Text(grid.title, style="bold"), shown, *(Text(note, style="dim") for note in notes), Text("")
    )


def _doubtful(grid: Grid) -> bool:
    return any(entry.doubt for section in grid.sections for row in section for entry in row)


def _rich(grid: Grid, *, doubts: bool, short: bool, count: int) -> Table:
    """The first `count` columns."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    def field(entry: Entry) -> Text:
        text = Text(entry.text, style="bold green" if entry.best else "")
        return text.append(f" ±{entry.doubt}", "not bold dim") if entry.doubt and doubts else text

    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 0 if short else 1, 0, 0))
    for place, column in enumerate(grid.columns[:count]):
        side: Literal["left", "right"] = "left" if place < grid.words else "right"
        shown.add_column(Text(_short(column) if short else column), justify=side, no_wrap=True)
    for section in grid.sections:
        for row in section:
            shown.add_row(*map(field, row[:count]), end_section=row is section[-1])
    return shown


def _short(head: str) -> str:
    """A word to a line, five letters at most."""
    return "\n".join(word if len(word) <= 5 else f"{word[:4]}." for word in head.split())


def markdown(grid: Grid) -> str:
    """A GitHub table with title and notes."""

    def field(entry: Entry) -> str:
        text = entry.text.replace("|", "\\|")
        text = f"**{text}**" if entry.best and text else text
        return f"{text} ±{entry.doubt}" if entry.doubt else text

    lines = [f"### {grid.title}", ""]
    lines.append("| " + " | ".join(grid.columns) + " |")
    lines.append(
        "|" + "|".join("---" if at < grid.words else "---:" for at in range(len(grid.columns))) + "|"
    )
    lines += ["| " + " | ".join(map(field, row)) + " |" for section in grid.sections for row in section]
    lines += ["", *(f"* {note}" for note in grid.notes)]
    return "\n".join(lines).rstrip() + "\n"


def latex(grid: Grid) -> str:
    r"""A `table` environment; needs `\usepackage{booktabs}`."""

    def field(entry: Entry) -> str:
        text = rf"\textbf{{{_tex(entry.text)}}}" if entry.best and entry.text else _tex(entry.text)
        return rf"{text}{{\scriptsize$\,\pm\,${_tex(entry.doubt)}}}" if entry.doubt else text

    places = "l" * grid.words + "r" * (len(grid.columns) - grid.words)
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_tex(' '.join([grid.title + '.', *_sentences(grid)]))}}}",
    ]
    lines += [rf"\begin{{tabular}}{{{places}}}", r"\toprule"]
    lines.append(" & ".join(map(_tex, grid.columns)) + r" \\")
    for section in grid.sections:
        lines += [r"\midrule", *(" & ".join(map(field, row)) + r" \\" for row in section)]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


def _sentences(grid: Grid) -> list[str]:
    return [f"{note[0].upper() if note[0].isascii() else note[0]}{note[1:]}." for note in grid.notes]


_TEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        "×": r"$\times$",
        "−": "$-$",
        "–": "--",
        "σ": r"$\sigma$",
    }
)


def _tex(text: str) -> str:
    return text.translate(_TEX)


class Printed(Protocol):
    """A row of a list."""

    def printed(self) -> dict[str, Any]:
        """Columns of CSV and keys of JSON."""


def plain(rows: Sequence[Printed]) -> list[dict[str, Any]]:
    """Rows as plain data, in order; six digits are more than any score has."""
    return [{key: _rounded(value) for key, value in row.printed().items()} for row in rows]


def _rounded(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_rounded(each) for each in value]
    return round(value, 6) if isinstance(value, float) else value


def as_json(rows: Sequence[Printed]) -> str:
    """One list of objects."""
    return json.dumps(plain(rows), indent=1, allow_nan=False) + "\n"


def as_csv(rows: Sequence[Printed]) -> str:
    """One line a row, a head above; lists are separated by spaces, what isn't known is empty."""
    text = io.StringIO()
    found = plain(rows)
    if found:
        writer = csv.DictWriter(text, fieldnames=list(found[0]), lineterminator="\n")
        writer.writeheader()
        for row in found:
            writer.writerow({key: _listed(value) for key, value in row.items()})
    return text.getvalue()


def _listed(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, list) else value
