"""A table that is ready to be shown, and the forms it is shown in: terminal, Markdown, LaTeX, CSV, JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from rich.table import Table


@dataclass(frozen=True)
class Entry:
    """One field.

    Args:
        text: what it says.
        doubt: what follows ±.
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


def terminal(grid: Grid) -> Table:
    """As a rich table."""
    from rich import box, markup
    from rich.table import Table

    shown = Table(
        box=box.SIMPLE_HEAD, title=grid.title, title_justify="left", title_style="bold",
        caption="\n".join(grid.notes), caption_justify="left", padding=(0, 1, 0, 0),
    )  # fmt: skip
    for place, column in enumerate(grid.columns):
        shown.add_column(column, justify="left" if place < grid.words else "right", no_wrap=True)
    for section in grid.sections:
        for place, row in enumerate(section):
            cells = []
            for entry in row:
                text = markup.escape(entry.text)
                text = f"[bold green]{text}[/]" if entry.best else text
                cells.append(f"{text} [dim]±{entry.doubt}[/]" if entry.doubt else text)
            shown.add_row(*cells, end_section=place + 1 == len(section))
    return shown


def markdown(grid: Grid) -> str:
    """As a GitHub table, title and notes around it."""

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
    r"""As a `table` environment; needs `\usepackage{booktabs}`."""

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


_TEX = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{",
    "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "×": r"$\times$",
    "−": "$-$", "–": "--", "σ": r"$\sigma$",
})  # fmt: skip


def _tex(text: str) -> str:
    return text.translate(_TEX)


def plain(rows: Sequence[DataclassInstance]) -> list[dict[str, Any]]:
    """Dataclasses as plain data, in order; six digits are more than any score has."""
    return [{key: _rounded(value) for key, value in asdict(row).items()} for row in rows]


def _rounded(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_rounded(each) for each in value]
    return round(value, 6) if isinstance(value, float) else value


def as_json(rows: Sequence[DataclassInstance]) -> str:
    """One list of objects."""
    return json.dumps(plain(rows), indent=1, allow_nan=False) + "\n"


def as_csv(rows: Sequence[DataclassInstance]) -> str:
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
