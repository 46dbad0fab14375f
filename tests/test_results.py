"""Every table of scores on a page is what the shipped records say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from optmerge.bench.modalities import output
from optmerge.cli import run

ROOT = Path(__file__).parents[1]

Table = list[str]


def tables(text: str) -> list[Table]:
    """The Markdown tables in which scores stand, line by line."""
    blocks = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    return [block.splitlines() for block in blocks if "±" in block]


def page(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def printed(capsys: pytest.CaptureFixture[str], benchmark: str, *options: str) -> list[Table]:
    """Tables of the shipped records alone."""
    folder = "bench" if benchmark == "bench" else "omni"
    command = [benchmark, "table", "--records", str(ROOT / "results" / folder), "--markdown", *options]
    capsys.readouterr()
    assert run(command) == 0
    return tables(capsys.readouterr().out)


def test_the_benchmarks_page_and_the_readme_print_the_records(capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(capsys, "bench")
    assert tables(page("docs/benchmark.md")) == found
    assert_rounded(page("README.md"), found[0])


def test_the_omni_page_prints_the_records(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "rows", lambda found: [])  # lists, which take longer than the tables
    assert tables(page("docs/omni.md")) == printed(capsys, "omni", "--n", "250")


def assert_rounded(text: str, table: Table) -> None:
    """The block of scores in a text is the table with fewer columns and digits, each merge at its best."""
    [block] = [block for block in text.split("```")[1::2] if "±" in block]
    head, *lines = [line for line in block.splitlines() if line.strip()]
    columns = [*head.split()[: head.split().index("average") + 1], "% of experts"]
    rows = {cells["model"]: cells for cells in cells_of(table)}  # the later of two rules is validation
    shown = [re.split(r"\s{2,}", line.strip()) for line in lines]
    assert {name for name, *_ in shown} == rows.keys()
    for name, *figures in shown:
        assert len(figures) == len(columns)
        for column, figure in zip(columns, figures, strict=True):
            assert_rounds(rows[name][column], figure, f"{name}, {column}")


def cells_of(table: Table) -> list[dict[str, str]]:
    """Rows by column, without bold."""
    head, _, *rows = [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in table]
    return [dict(zip(head, row, strict=True)) for row in rows]


def assert_rounds(exact: str, figure: str, where: str) -> None:
    """The figures of a cell are those of another, with as many digits or fewer."""
    numbers = re.compile(r"\d+(?:\.\d+)?")
    wanted, found = numbers.findall(exact), numbers.findall(figure)
    assert len(wanted) == len(found), where
    for one, other in zip(wanted, found, strict=True):
        digits = len(other.partition(".")[2])
        # what it is rounded from has been rounded itself
        assert abs(float(one) - float(other)) <= 0.5 * 10**-digits + (0.05 if digits == 0 else 0), where
