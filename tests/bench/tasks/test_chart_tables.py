from __future__ import annotations

import csv
import gzip
import random
import subprocess
import sys
from importlib.resources import files
from typing import Any

import pytest

from optmerge.bench.tasks import SPLITS
from optmerge.bench.tasks.drawn._data import chart_tables
from optmerge.bench.tasks.drawn._data.chart_tables import TRENDS, comparison, run, trend_of
from optmerge.errors import InputError
from optmerge.evaluate.scoring.charts import relaxed_accuracy


def test_comparisons_of_different_splits_are_about_different_things() -> None:
    about = {
        split: {
            name
            for seed in range(1500)
            for name in comparison(random.Random(f"{split}{seed}"), split, 4).about
        }
        for split in SPLITS
    }
    assert all(len(about[split]) > 15 for split in SPLITS)
    assert sum(map(len, about.values())) == len(set.union(*about.values()))


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("trend", TRENDS)
def test_every_split_has_runs_of_every_trend(split: str, trend: Any) -> None:
    found = [run(random.Random(seed), split, trend) for seed in range(40)]
    assert len({table.about for table in found}) >= 4
    assert {trend_of(table.values) for table in found} == {trend}


def test_runs_of_a_country_that_is_tested_are_in_no_training_chart() -> None:
    about = [
        {run(random.Random(seed), split, random.Random(seed).choice(TRENDS)).about for seed in range(400)}
        for split in ("train", "test")
    ]
    assert not about[0] & about[1]


def test_values_are_the_sources_own() -> None:
    source = files("plotly").joinpath("package_data", "datasets", "gapminder.csv.gz").read_bytes()
    rows = csv.DictReader(gzip.decompress(source).decode().splitlines())
    known = {
        (row["iso_alpha"], float(row[column])) for row in rows for column in ("lifeExp", "pop", "gdpPercap")
    }
    checked = 0
    for seed in range(100):
        table = comparison(random.Random(seed), "train", 3)
        if table.about[0].startswith("country/") and "PRK" not in table.labels:
            assert set(zip(table.labels, table.values, strict=True)) <= known
            checked += 1
    assert checked > 40


def test_years_of_a_run_are_told_apart_by_relaxed_accuracy() -> None:
    for trend in TRENDS:
        for seed in range(50):
            years = run(random.Random(seed), "train", trend).labels
            for gold in years:
                assert [relaxed_accuracy(year, (gold,)) for year in years].count(1.0) == 1


@pytest.mark.parametrize(
    ("values", "trend"),
    [
        ((1, 2, 3), "rising"),
        ((9, 5, 1), "falling"),
        ((1, 5, 2), "up then down"),
        ((5, 1, 4, 6), "down then up"),
        ((1, 5, 2, 6), None),
        ((1, 1, 5), None),
        ((1, 2, 10), None),
    ],
)
def test_trends_are_told_from_the_values(values: Any, trend: Any) -> None:
    assert trend_of(values) == trend


def test_a_small_step_counts_where_asked_for() -> None:
    assert trend_of((1, 2, 10), step=0) == "rising"


def test_countries_have_codes_of_their_own() -> None:
    assert len(chart_tables._codes()) == 142
    assert {len(values) for values in chart_tables._gapminder().values()} == {12}


def test_reading_tables_imports_neither_package() -> None:
    code = (
        "import random, sys; "
        "from optmerge.bench.tasks.drawn._data.chart_tables import comparison, labels, run; "
        "labels(); run(random.Random(0), 'test', 'rising'); comparison(random.Random(0), 'test', 3);"
        "print([m for m in ('pandas', 'plotly', 'vega_datasets') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chart_tables, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="vega_datasets"):
        chart_tables._json("barley.json")
