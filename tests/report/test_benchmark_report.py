"""The report of a benchmark: the numbers of its records, and nothing else is taken for one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from optmerge.bench.trials import trials
from optmerge.cli import run
from optmerge.report.benchmark_report import BenchmarkRecord, benchmark_report, read_benchmark
from optmerge.report.blocks import Report, html, markdown
from report.test_merge_report import tables
from worlds import records


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bench")
    for result in records.line(sets=2, n=30):
        trials.write(result, root)
    return root


@pytest.fixture(scope="module")
def record(folder: Path) -> BenchmarkRecord:
    return read_benchmark(folder)


@pytest.fixture(scope="module")
def made(record: BenchmarkRecord) -> Report:
    return benchmark_report(record)


def test_every_score_of_the_page_is_a_row_of_the_records(record: BenchmarkRecord, made: Report) -> None:
    found = record.plain()
    scores, *_ = tables(html(made)).values()
    columns, *models = scores
    shown = {
        (model, scale, column): cell
        for model, scale, *cells in models
        for column, cell in zip(columns[2:], cells, strict=True)
    }
    assert found["rows"]
    for row in found["rows"]:
        scales = [scale for model, scale, _ in shown if model == row["model"]]
        scale = row["scale_rule"] if row["scale_rule"] in scales else "–"
        half = 50 * (row["high"] - row["low"])
        assert shown[row["model"], scale, row["capability"]] == f"{100 * row['score']:.1f} ± {half:.1f}"


def test_the_best_average_comes_first_and_real_differences_are_counted(
    record: BenchmarkRecord, made: Report
) -> None:
    columns, *models = next(iter(tables(html(made)).values()))
    place = columns.index("average")
    averages = [float(row[place].split()[0]) for row in models if row[place] != "–"]
    assert averages == sorted(averages, reverse=True)

    (rules,) = record.pairs.values()
    pairs = rules["fixed"]
    real = sum(pair.p_holm < 0.05 for pair in pairs)
    assert f"At the fixed scale {real} of {len(pairs)} differences" in markdown(made)


@pytest.mark.slow  # every pair of methods is tested once more
def test_the_command_tells_records_from_a_merge(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["report", str(folder), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "benchmark"
    analysis = folder / "analysis.json"
    analysis.write_text("{}")
    assert run(["report", str(folder), "--analysis", str(analysis)]) == 2
    assert "a benchmark has no analysis" in capsys.readouterr().err
