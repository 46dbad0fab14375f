"""Real tables to draw charts of: gapminder (shipped by plotly), and six small ones of vega_datasets.

The packages are only located, never imported; a file is read once. What a table is about, a country or a row
group, belongs to one split, so no chart of the test shows anything that a chart of the training does.
"""

from __future__ import annotations

import csv
import gzip
import json
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from itertools import pairwise, product
from pathlib import Path
from typing import Any

from optmerge.bench.tasks import Split, held_apart
from optmerge.errors import InputError

TRENDS = ("rising", "falling", "up then down", "down then up")
_POINTS = 3  # in a run; longer ones seldom fall all the way
_STEP = 0.2  # of a run's range: every step is larger, so that it survives rounding and is seen
_GAPMINDER = 0.6  # share of the comparisons
_MEASURES = ("lifeExp", "pop", "gdpPercap")
_CAUSES = ("wounds", "other", "disease")
_VEGA = "vega_datasets"


@dataclass(frozen=True)
class Table:
    """Labels and their values.

    Args:
        about: what splits must not share: countries, or one group of rows.
        labels: capital letters, or two digits of a year.
        values: as in the source.
    """

    about: tuple[str, ...]
    labels: tuple[str, ...]
    values: tuple[float, ...]


def trend_of(values: Sequence[float], step: float = _STEP) -> str | None:
    """One of `TRENDS`, or None: for zigzags, and where a step is level or at most that share of the range."""
    steps = [after - before for before, after in pairwise(values)]
    if min(map(abs, steps)) <= step * (max(values) - min(values)):
        return None
    ups = [step > 0 for step in steps]
    turns = sum(before != after for before, after in pairwise(ups))
    if turns > 1:
        return None
    return TRENDS[(0 if ups[0] else 1) + 2 * turns]


def comparison(rng: random.Random, split: Split, most: int) -> Table:
    """Up to `most` entities compared at one time: countries in a year, weather in a month, …"""
    if rng.random() >= _GAPMINDER:
        table = held_apart(rng, split, lambda r: r.choice(_comparisons()), lambda t: t.about)
        kept = sorted(rng.sample(range(len(table.labels)), min(most, len(table.labels))))
        return Table(table.about, tuple(table.labels[i] for i in kept), tuple(table.values[i] for i in kept))
    measure, year = rng.choice(_MEASURES), rng.randrange(len(_years()))
    codes: list[str] = []
    while len(codes) < most:
        code = held_apart(rng, split, lambda r: r.choice(_codes()), lambda code: (_country(code),))
        if code not in codes:
            codes.append(code)
    return Table(
        tuple(map(_country, codes)), tuple(codes), tuple(_gapminder()[code, measure][year] for code in codes)
    )


def run(rng: random.Random, split: Split, trend: str) -> Table:
    """Three consecutive values of one entity that follow a trend; the labels are two digits of the years."""
    return held_apart(rng, split, lambda r: r.choice(_runs()[trend]), lambda table: table.about)


def labels() -> frozenset[str]:
    """Every label of a comparison; labels made up at random must not be among them."""
    return frozenset(_codes()) | {label for table in _comparisons() for label in table.labels}


@cache
def _gapminder() -> dict[tuple[str, str], tuple[float, ...]]:
    """(country code, measure) → values in the order of the years."""
    path = _folder("plotly") / "package_data" / "datasets" / "gapminder.csv.gz"
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        for row in sorted(csv.DictReader(file), key=lambda row: (row["country"], row["year"])):
            for measure in _MEASURES:
                found[_code(row), measure].append(float(row[measure]))
    return {key: tuple(values) for key, values in found.items()}


def _code(row: Mapping[str, str]) -> str:
    """ISO 3166's code; the file gives South Korea's for both Koreas."""
    return "PRK" if row["country"] == "Korea, Dem. Rep." else row["iso_alpha"]


def _country(code: str) -> str:
    """What a table with the country is about."""
    return f"country/{code}"


@cache
def _codes() -> tuple[str, ...]:
    return tuple(dict.fromkeys(code for code, _ in _gapminder()))


def _years() -> range:
    return range(1952, 2008, 5)


@cache
def _comparisons() -> tuple[Table, ...]:
    """Every table of vega_datasets, zeros left out."""
    return (
        *_grouped(
            "barley",
            ((f"{r['variety']}/{r['year']}", r["site"], r["yield"]) for r in _json("barley.json")),
        ),
        *_grouped(
            "electricity",
            ((r["year"], r["source"], float(r["net_generation"])) for r in _csv("iowa-electricity.csv")),
        ),
        *_grouped(
            "crimea",
            ((r["date"], cause, r[cause]) for r in _json("crimea.json") for cause in _CAUSES),
        ),
        *_grouped("weather", ((r["date"][:7], r["weather"], 1.0) for r in _csv("seattle-weather.csv"))),
        *_grouped("cars", ((r["Year"], r["Origin"], 1.0) for r in _json("cars.json"))),
    )


def _grouped(source: str, rows: Iterable[tuple[str, str, float]]) -> list[Table]:
    """One table a group of (group, label, amount), amounts of a label added up."""
    sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for group, label, amount in rows:
        sums[group][label[:3].upper()] += amount
    tables = []
    for group, amounts in sums.items():
        there = {label: amount for label, amount in amounts.items() if amount > 0}
        if len(there) >= 3:
            tables.append(Table((f"{source}/{group}",), tuple(there), tuple(there.values())))
    return tables


@cache
def _runs() -> dict[str, tuple[Table, ...]]:
    """Trend → runs of countries, and of wheat's price and wages.

    Their years lie five apart, so relaxed accuracy, which takes a year for a number, tells them apart.
    """
    sources: list[tuple[str, Sequence[int], Sequence[float]]] = [
        (_country(code), _years(), values) for (code, _), values in _gapminder().items()
    ]
    rows = _json("wheat.json")
    for key, start in product(("wheat", "wages"), range(0, len(rows) - 4, 5)):  # blocks that share no row
        block = [row for row in rows[start : start + 5] if key in row]
        dates, amounts = [int(row["year"]) for row in block], [float(row[key]) for row in block]
        sources.append((f"{key}/{start}", dates, amounts))
    found: dict[str, list[Table]] = defaultdict(list)
    for about, years, values in sources:
        for start in range(len(values) - _POINTS + 1):
            part = tuple(values[start : start + _POINTS])
            if trend := trend_of(part):
                ticks = tuple(f"{year % 100:02}" for year in years[start : start + _POINTS])
                found[trend].append(Table((about,), ticks, part))
    return {trend: tuple(tables) for trend, tables in found.items()}


def _json(name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((_folder(_VEGA) / "_data" / name).read_text(encoding="utf-8"))
    return rows


def _csv(name: str) -> list[dict[str, str]]:
    with (_folder(_VEGA) / "_data" / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _folder(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            "a package with tables isn't installed",
            where="charts of real tables",
            got=package,
            hint="pip install 'optmerge[bench]'",
        )
    return Path(spec.submodule_search_locations[0])
