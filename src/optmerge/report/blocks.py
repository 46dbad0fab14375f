"""What a report is made of, and how that becomes HTML or Markdown; both show one text of every number."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from optmerge.errors import printable

GENERATOR = "optmerge report"
"""By what a page of ours is known, which may be replaced by a newer one."""


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Args:
        text: what it says.
        heat: strength of its colour in [0, 1]; None for no colour.
        number: whether it is a number, and so stands at the right.
    """

    text: str
    heat: float | None = None
    number: bool = True


@dataclass(frozen=True)
class Table:
    """A table.

    Args:
        caption: what it shows.
        columns: heads.
        rows: cells, the first of each row being its head.
        folded: shown when asked for.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    folded: bool = False


@dataclass(frozen=True)
class Items:
    """A list of sentences; `warning` marks those that ask for something to be done."""

    sentences: tuple[str, ...]
    warning: bool = False


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    words: str


@dataclass(frozen=True)
class Code:
    """A listing."""

    text: str


Block = Table | Items | Text | Code


@dataclass(frozen=True)
class Section:
    """A part of a report under a heading."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Report:
    """A whole report."""

    title: str
    lead: str
    sections: tuple[Section, ...]


def words(text: object) -> Cell:
    """A cell of text."""
    return Cell(str(text), number=False)


# --- HTML


def html(report: Report) -> str:
    """One page that needs nothing else: no network, no script; light or dark, wide, small or printed."""
    style = Path(__file__).with_name("report.css").read_text("utf-8")
    contents = "".join(
        f'<li><a href="#s{index}">{_html_text(section.title)}</a></li>'
        for index, section in enumerate(report.sections)
    )
    sections = "".join(
        f'<section id="s{index}" aria-labelledby="h{index}">\n<h2 id="h{index}">{_html_text(section.title)}'
        f"</h2>\n{''.join(map(_html_block, section.blocks))}</section>\n"
        for index, section in enumerate(report.sections)
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="{GENERATOR}">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{_html_text(report.title)}</title>
<style>
{style}</style>
</head>
<body>
<header>
<h1>{_html_text(report.title)}</h1>
<p class="lead">{_html_text(report.lead)}</p>
<nav aria-label="contents"><ul>{contents}</ul></nav>
</header>
<main>
{sections}</main>
</body>
</html>
"""


def _html_text(text: str) -> str:
    return escape(printable(text))


def _html_block(block: Block) -> str:
    if isinstance(block, Table):
        return _html_table(block)
    if isinstance(block, Items):
        kind, mark = (' class="warnings"', "<b>warning:</b> ") if block.warning else ("", "")
        items = "".join(f"<li>{mark}{_html_text(each)}</li>" for each in block.sentences)
        return f"<ul{kind}>{items}</ul>\n"
    if isinstance(block, Code):
        return f'<pre tabindex="0">{_html_text(block.text)}</pre>\n'
    return f"<p>{_html_text(block.words)}</p>\n"


def _html_table(table: Table) -> str:
    caption = _html_text(table.caption)
    heads = "".join(f'<th scope="col">{_html_text(column)}</th>' for column in table.columns)
    rows = "".join(f"<tr>{''.join(_html_row(row))}</tr>\n" for row in table.rows)
    title = "" if table.folded else f'<p class="caption">{caption}</p>\n'
    shown = f"""{title}<div class="scroll" tabindex="0" role="region" aria-label="{caption}">
<table aria-label="{caption}">
<thead><tr>{heads}</tr></thead>
<tbody>
{rows}</tbody>
</table>
</div>
"""
    return f"<details>\n<summary>{caption}</summary>\n{shown}</details>\n" if table.folded else shown


def _html_row(row: Sequence[Cell]) -> Iterable[str]:
    head, *others = row
    yield f'<th scope="row">{_html_text(head.text)}</th>'
    for cell in others:
        kind = "number" if cell.number else "words"
        heat = "" if cell.heat is None else f' style="--heat:{min(1.0, max(0.0, cell.heat)):.3f}"'
        yield f'<td class="{kind}"{heat}>{_html_text(cell.text)}</td>'


# --- Markdown


def markdown(report: Report) -> str:
    """The same as Markdown, colours left out."""
    parts = [f"# {_md_text(report.title)}", _md_text(report.lead)]
    for section in report.sections:
        parts.append(f"## {_md_text(section.title)}")
        parts += [_md_block(block) for block in section.blocks]
    return "\n\n".join(parts) + "\n"


def _md_text(text: str) -> str:
    shown = printable(text).replace("\n", " ")
    for sign in r"\`*_[]<>|#":
        shown = shown.replace(sign, "\\" + sign)
    return shown


def _md_block(block: Block) -> str:
    if isinstance(block, Table):
        lines = [
            _md_row(table_row)
            for table_row in (block.columns, *([c.text for c in row] for row in block.rows))
        ]
        numbers = [cell.number for cell in block.rows[0]] if block.rows else [False] * len(block.columns)
        rule = "|".join("--:" if number else "---" for number in numbers)
        return "\n".join([f"{_md_text(block.caption)}:", "", lines[0], f"|{rule}|", *lines[1:]])
    if isinstance(block, Items):
        mark = "**warning:** " if block.warning else ""
        return "\n".join(f"* {mark}{_md_text(each)}" for each in block.sentences)
    if isinstance(block, Code):
        fence = "`" * (3 + block.text.count("```"))
        return f"{fence}\n{printable(block.text)}\n{fence}"
    return _md_text(block.words)


def _md_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_md_text, cells))} |"
