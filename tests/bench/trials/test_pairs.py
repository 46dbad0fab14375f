from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console

from optmerge.bench.trials import output
from optmerge.bench.trials.line_scores import line_scores
from optmerge.bench.trials.pairs import matrix, pairs
from optmerge.bench.trials.rows import AVERAGE, rows
from optmerge.evaluate.statistics import holm
from worlds import records as synthetic

(STANDING,) = line_scores(synthetic.line(n=120, sets=2))
ROWS = rows(STANDING)


def average(model: Any, rule: Any) -> Any:
    return next(r.score for r in ROWS if (r.model, r.scale_rule, r.capability) == (model, rule, AVERAGE))


@pytest.mark.parametrize("rule", ["fixed", "validation"])
def test_every_two_methods_are_compared_once_the_better_one_first(rule: Any) -> None:
    found = pairs(STANDING, rule)
    number = len(synthetic.METHODS)
    assert (
        len({frozenset((pair.first, pair.second)) for pair in found})
        == len(found)
        == number * (number - 1) / 2
    )
    for pair in found:
        rules = ["fixed" if name == "average" else rule for name in (pair.first, pair.second)]
        gap = average(pair.first, rules[0]) - average(pair.second, rules[1])
        assert pair.difference == pytest.approx(gap) and pair.difference >= 0
        assert pair.low <= pair.difference <= pair.high and len(pair.by_set) == 2
    assert [pair.p_holm for pair in found] == holm([pair.p for pair in found])


def test_large_differences_are_real_and_small_ones_are_not() -> None:
    found = {(pair.first, pair.second): pair for pair in pairs(STANDING, "validation")}
    assert found["optmerge", "task_arithmetic"].p_holm < 0.01
    assert all(pair.p_holm > 0.01 for pair in found.values() if abs(pair.difference) < 0.005)


def test_a_method_without_a_sweep_is_left_out_of_the_chosen_scales() -> None:
    results = [r for r in synthetic.line(n=20) if (r.trial.model, r.trial.split) != ("tsv", "validation")]
    names = {
        name for pair in pairs(line_scores(results)[0], "validation") for name in (pair.first, pair.second)
    }
    assert names == synthetic.METHODS.keys() - {"tsv"}


def test_the_matrix_marks_what_is_real() -> None:
    compared = pairs(STANDING, "validation")
    shown, found = matrix(compared), {(pair.first, pair.second): pair for pair in compared}
    for line in shown.sections[0]:
        for column, entry in zip(shown.columns[1:], line[1:], strict=True):
            pair = found.get((line[0].text, column))
            assert (pair is None) == (entry.text == "")
            assert pair is None or entry.best == entry.text.endswith("*") == (pair.p_holm < 0.05)


def test_pairs_are_printed_in_every_form() -> None:
    for form in ("terminal", "markdown", "latex", "csv", "json"):
        console = Console(record=True, width=200, file=io.StringIO())
        output.show_pairs(line_scores(synthetic.line(n=12)), form, console)
        assert "optmerge" in console.export_text(clear=False)
    assert {row["scale_rule"] for row in json.loads(console.export_text())} == {"fixed", "validation"}
