"""Every table of scores on a page is what the shipped records say."""

from __future__ import annotations

import json
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
    [shown] = tables(page("README.md"))
    assert_rounded(shown, found)


def test_the_readmes_costs_beside_mergekit_are_recorded() -> None:
    rows = re.findall(
        r"^\| (.+?) \| ([\d.]+) s \| ([\d.]+) s \| ([\d,]+) MiB \| ([\d,]+) MiB \|$",
        page("README.md"),
        re.MULTILINE,
    )
    records = [
        json.loads(line) for line in (ROOT / "results/perf/peers.jsonl").read_text("utf-8").splitlines()
    ]
    assert [_pair(name) for name, *_ in rows] == [record["pair"]["ours"] for record in records]
    for (_, *shown), record in zip(rows, records, strict=True):
        sides = (record["ours"], record["theirs"])
        exact = [side["wall_seconds"] for side in sides] + [
            side["peak_anonymous_bytes"] / 2**20 for side in sides
        ]
        assert shown == [*(f"{each:.1f}" for each in exact[:2]), *(f"{each:,.0f}" for each in exact[2:])]


def _pair(name: str) -> str:
    """A method's name on the page in the form of records."""
    return re.sub(r"\W", "_", name.partition(" (")[0].lower())


def test_the_omni_page_prints_the_records(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "rows", lambda found: [])  # lists, which take longer than the tables
    assert tables(page("docs/omni.md")) == printed(capsys, "omni", "--n", "250")


READMES = {
    "base": "base",
    "task arithmetic": "task_arithmetic",
    "TSV": "tsv",
    "SWUDI, the default method": "swudi",
    "each question to its own expert": "routing",
}


def assert_rounded(shown: Table, lines: list[Table]) -> None:
    """The README's table is that of both lines with fewer rows and columns, each merge at its best scale."""
    for row in cells_of(["|name|full|full of|lora|lora of|", *shown[1:]]):
        for line, table in zip(("full", "lora"), lines, strict=False):
            rows = {
                cells["model"]: cells for cells in cells_of(table)
            }  # the later of two rules is validation
            if row["name"] == "best single expert":
                found = max(
                    (rows[each] for each in rows if each.endswith(" expert")),
                    key=lambda cells: cells["average"],
                )
            else:
                found = rows[READMES[row["name"]]]
            assert_rounds(found["average"], row[line], f"{row['name']}, {line}")
            assert_rounds(found["% of experts"], row[f"{line} of"], f"{row['name']}, {line}, % of experts")


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
