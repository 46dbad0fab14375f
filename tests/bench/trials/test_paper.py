from __future__ import annotations

import csv
import io
import json
from importlib.resources import files
from statistics import fmean
from typing import Any

import pytest
from rich.console import Console

from optmerge.bench.tasks import registered
from optmerge.bench.trials import output, paper
from optmerge.bench.trials.rows import AVERAGE


def score(model: Any, name: str, capability: Any) -> Any:
    found = [row for row in paper.rows(model) if (row.label, row.capability) == (name, capability)]
    return found[0].score if found else None


@pytest.mark.parametrize(
    ("model", "name", "capability", "expected"),
    [
        ("InternVL2.5-1B", "optmerge", AVERAGE, 0.5744),
        ("InternVL2.5-1B", "optmerge", "vqa", (0.3097 + 0.5713) / 2),
        ("InternVL2.5-1B", "expert:OCR".lower(), "ocr", (0.7300 + 0.5479) / 2),
        ("InternVL2.5-1B", "mixture", "chart", 0.7032),
        ("Qwen2-VL-7B", "base", "grounding", (0.4532 + 0.3755 + 0.3126) / 3),
        ("Qwen2-VL-7B", "ties", AVERAGE, 0.6124),
        ("Qwen2-VL-7B", "mixture", AVERAGE, 0.6223),
    ],
)
def test_published_scores_in_our_form(model: Any, name: str, capability: Any, expected: Any) -> None:
    assert score(model, name, capability) == pytest.approx(expected)


def test_what_was_not_published_has_no_row() -> None:
    assert score("InternVL2.5-1B", "expert:vqa", "grounding") is None
    assert score("Qwen2-VL-7B", "expert:vqa", "grounding") is not None


@pytest.mark.parametrize("model", paper.TABLES)
def test_capabilities_are_ours_and_experts_reach_all_of_themselves(model: Any) -> None:
    rows = paper.rows(model)
    trained = {name for name, task in registered().items() if task.trained}
    assert {row.capability for row in rows} == trained | {AVERAGE} == set(paper.COLUMNS) | {AVERAGE}
    experts = [row for row in rows if row.label == f"expert:{row.capability}"]
    assert len(experts) == 5 and {row.normalised for row in experts} == {1.0}
    assert all(0 < row.score < 1 for row in rows)


@pytest.mark.parametrize("name", paper.TABLES.values())
def test_the_shipped_averages_are_those_of_their_columns(name: str) -> None:
    text = (files("optmerge.bench") / "paper" / name).read_text("utf-8")
    for line in csv.DictReader(text.splitlines()):
        published = [float(value) for key, value in line.items() if key not in ("model", "Average") and value]
        # The paper's own rounding and, in some rows, its own arithmetic.
        assert fmean(published) == pytest.approx(float(line["Average"]), abs=0.8), line["model"]


def test_the_normalised_average_is_the_mean_over_the_capabilities() -> None:
    rows = {row.capability: row for row in paper.rows("InternVL2.5-1B") if row.model == "tsv"}
    assert rows[AVERAGE].normalised == pytest.approx(fmean(rows[name].normalised for name in paper.COLUMNS))


def test_the_cost_of_a_merge_and_of_a_training_are_in_seconds_and_bytes() -> None:
    found = {row.label: row for row in paper.rows("InternVL2.5-1B")}
    assert found["optmerge"].merge_seconds == pytest.approx(0.22 * 3600)
    assert found["mixture"].merge_peak_bytes == 240e9 and found["ties"].merge_seconds is None


def test_the_papers_tables_come_in_every_form() -> None:
    console = Console(record=True, width=200, file=io.StringIO())
    output.show_paper("json", console)
    rows = json.loads(console.export_text())
    assert {row["line"] for row in rows} == set(paper.TABLES)
    output.show_paper("terminal", console)
    text = console.export_text()
    assert "InternVL2.5-1B, published" in text and "2505.19892" in text and "±" not in text
