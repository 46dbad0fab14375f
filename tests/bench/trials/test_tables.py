"""From line_scores to rows to every form of a table."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from optmerge.bench.trials import grid, output
from optmerge.bench.trials.grid import Entry, Grid
from optmerge.bench.trials.line_scores import line_scores
from optmerge.bench.trials.rows import AVERAGE, rows
from optmerge.bench.trials.tables import headline, table
from optmerge.bench.trials.trials import write
from optmerge.errors import InputError, RunError
from optmerge.evaluate import statistics
from worlds import records as synthetic

RESULTS = synthetic.line(n=150, sets=2)
(LINE,) = line_scores(RESULTS)
ROWS = rows(LINE)
KEYS = ["line", "model", "capability", "score", "low", "high", "n", "seeds", "scale_rule", "normalised"]


def find(model: Any, capability: Any = AVERAGE, rule: str = "fixed", among: Any = ROWS) -> Any:
    (row,) = [r for r in among if (r.label, r.capability, r.scale_rule) == (model, capability, rule)]
    return row


def scores_of(label: Any) -> Any:
    return next(each.scores for each in LINE.models if each.label == label)


def shown(show: Any, form: str = "terminal") -> Any:
    console = Console(record=True, width=200, file=io.StringIO())
    show([LINE], form, console)
    return console.export_text()


# --- rows


def test_every_model_has_a_row_for_each_task_and_the_average() -> None:
    for model in LINE.models:
        own = [r.capability for r in ROWS if (r.label, r.scale_rule) == (model.label, model.rule)]
        held_out = [] if model.model == "routing" else ["composition"]
        assert own == [*synthetic.TRAINED, AVERAGE, *held_out]


def test_a_row_is_the_statistics_of_its_models_scores() -> None:
    row, scores = find("tsv", "chart"), scores_of("tsv")
    expected = statistics.estimate([scores["chart"]])
    assert (row.score, row.low, row.high) == (expected.score, expected.low, expected.high)
    assert (row.n, row.seeds, row.deviation) == (150, 2, expected.deviation)
    average = find("tsv")
    assert average.score == pytest.approx(fmean(scores[task].mean() for task in synthetic.TRAINED))
    assert average.n == 150 * len(synthetic.TRAINED)


def test_normalised_is_the_share_of_the_own_expert_set_by_set() -> None:
    scores, shares = scores_of("tsv"), []
    for task in synthetic.TRAINED:
        expert = scores_of(f"expert:{task}")[task]
        share = np.mean(scores[task].mean(axis=1) / expert.mean(axis=1))
        assert find("tsv", task).normalised == pytest.approx(share)
        shares.append(share)
    assert find("tsv").normalised == pytest.approx(fmean(shares))
    assert find("expert:ocr", "ocr").normalised == find("routing").normalised == 1.0
    assert find("tsv", "composition").normalised is None


def test_the_base_is_measured_by_every_sets_experts() -> None:
    base = scores_of("base")["ocr"].mean()
    experts = scores_of("expert:ocr")["ocr"].mean(axis=1)
    assert find("base", "ocr").normalised == pytest.approx(np.mean(base / experts))
    assert find("base").seeds == 1 and find("base").deviation is None


def test_cost_and_scales_are_those_of_the_merges() -> None:
    assert find("optmerge").merge_seconds == 2.5 and find("optmerge").scales == (0.3, 0.3)
    assert find("optmerge", rule="validation").scales == (0.7, 0.7)
    assert find("mixture").merge_seconds is None and find("mixture").scales == ()


def test_without_experts_scores_stay_and_shares_go() -> None:
    (line,) = line_scores([r for r in RESULTS if r.trial.label != "expert:ocr"])
    found = rows(line)
    assert find("tsv", among=found).normalised is None and line.find("routing", "routing") is None
    assert find("tsv", among=found).score == find("tsv").score


def test_what_failed_has_a_row_without_a_score() -> None:
    broken = [replace(r, tasks={}, error="NaN") if r.trial.model == "ties" else r for r in RESULTS]
    (line,) = line_scores(broken)
    row = find("ties", "vqa", among=rows(line))
    assert (row.score, row.low, row.seeds, row.failed) == (None, None, 0, 2)
    entries = {cells[0].text: cells for section in table("", rows(line)).sections for cells in section}
    assert [entry.text for entry in entries["ties"]].count("failed") == len(synthetic.TRAINED) + 2


def test_a_failure_in_one_of_the_sets_is_marked() -> None:
    broken = [
        replace(r, tasks={}, error="NaN") if r.trial.model == "ties" and r.trial.expert_set == 1 else r
        for r in RESULTS
    ]
    shown = table("", rows(line_scores(broken)[0]))
    texts = [
        entry.text
        for section in shown.sections
        for line in section
        for entry in line
        if line[0].text == "ties"
    ]
    assert sum(text.endswith("†") for text in texts) == len(synthetic.TRAINED) + 2
    assert any("†" in note for note in shown.notes)


# --- tables


def test_the_best_merge_of_each_column_is_bold_and_nothing_else() -> None:
    found = table("", ROWS)
    lines = [line for section in found.sections for line in section]
    for at, column in enumerate(found.columns):
        bold = [line[0].text for line in lines if line[at].best]
        if column in ("model", "rule", "scale", "σ sets", "merge s", "peak MB"):
            assert bold == []
        else:
            scores = {line[0].text: float(line[at].text) for line in lines if line[1].text}
            assert bold and all(scores[name] == max(scores.values()) for name in bold)


def test_the_headline_names_the_best_merge_and_what_it_is_measured_by() -> None:
    words, best = headline(ROWS), find("optmerge", rule="validation")
    assert words.startswith(f"full: optmerge (validation scale) averages {100 * best.score:.1f} %")
    assert f"±{100 * best.deviation:.1f} over 2 expert sets" in words
    assert all(f"{name} {100 * find(name).score:.1f} %" in words for name in ("base", "routing", "mixture"))
    assert headline([row for row in ROWS if row.model == "base"]) == ""


def test_the_terminal_shows_scores_intervals_notes_and_headline() -> None:
    text, row = shown(output.show_scores), find("tsv", "chart")
    assert f"{100 * row.score:.1f} ±{50 * (row.high - row.low):.1f}" in text
    assert "full line, 150 questions a capability" in text and "± half the 95 % interval" in text
    assert "optmerge (validation scale) averages" in " ".join(text.split())


def test_json_is_one_list_of_rows() -> None:
    found = json.loads(shown(output.show_scores, "json"))
    assert len(found) == len(ROWS) and [list(row)[: len(KEYS)] for row in found] == [KEYS] * len(found)
    row = next(r for r in found if r["model"] == "expert:vqa" and r["capability"] == "vqa")
    assert (
        row["score"] == pytest.approx(find("expert:vqa", "vqa").score, abs=1e-6) and row["normalised"] == 1.0
    )
    assert {row["scale_rule"] for row in found} == {"fixed", "validation"}


def test_csv_says_the_same_as_json() -> None:
    found = list(csv.DictReader(io.StringIO(shown(output.show_scores, "csv"))))
    plain = json.loads(shown(output.show_scores, "json"))
    assert [row["model"] for row in found] == [row["model"] for row in plain]
    assert [float(row["score"]) for row in found] == [row["score"] for row in plain]
    assert {row["scales"] for row in found if row["model"] == "tsv"} == {"0.3 0.3", "1.0 1.0"}
    assert next(row for row in found if row["model"] == "base")["deviation"] == ""


def test_markdown_has_a_row_for_every_line_and_bold_where_it_is_best() -> None:
    text = grid.markdown(table("title", ROWS))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(LINE.models) and len({line.count("|") for line in lines}) == 1
    (best,) = [line for line in lines if line.startswith("| optmerge | validation")]
    assert best.count("**") >= 2 * (len(synthetic.TRAINED) + 2)


def test_latex_has_a_row_for_every_line_and_escapes_names() -> None:
    text = grid.latex(table("100 % & more", ROWS))
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    assert body.count(r"\\") == 1 + len(LINE.models)
    columns = text[text.index("{tabular}{") + 10 :].partition("}")[0]
    assert all(line.count(" & ") == len(columns) - 1 for line in body.splitlines() if line.endswith(r"\\"))
    assert r"100 \% \& more" in text and r"task\_arithmetic" in text and r"\textbf{optmerge}" not in text


def test_signs_that_mean_something_elsewhere_are_escaped() -> None:
    strange = Grid("t", ("a", "b"), 1, (((Entry("x|y_[bold]"), Entry("1", "2", best=True)),),), ("note",))
    assert r"x\|y_[bold]" in grid.markdown(strange) and "**1** ±2" in grid.markdown(strange)
    assert r"x|y\_[bold]" in grid.latex(strange)
    console = Console(record=True, width=80, file=io.StringIO())
    console.print(grid.terminal(strange, 80))
    assert "x|y_[bold]" in console.export_text()


def test_where_there_is_no_room_intervals_go_then_columns_and_a_note_says_what_is_missing() -> None:
    found = table("a title that is longer than its table is wide, and isn't broken", ROWS)
    for width, doubts, columns in ((200, True, 14), (110, False, 14), (90, False, 12), (80, False, 11)):
        console = Console(record=True, width=width, file=io.StringIO())
        console.print(grid.terminal(found, width))
        text = console.export_text()
        lines = text.splitlines()
        assert found.title in text and ("±" in text.partition("half")[0].rpartition(",")[0]) == doubts
        left_out = f"no room here for {', '.join(['±', *found.columns[columns:]])}; a wider terminal has it"
        assert lines[-2].strip() == (found.notes[-1] if doubts else left_out)
        for row in ROWS:
            assert row.capability != "chart" or f" {100 * row.score:.1f} " in text
        below = lines.index(found.notes[0])
        assert "…" not in text and all(len(line) <= width for line in lines[1:below])
        assert all(len(line) <= max(width, 120) for line in lines)


def test_only_one_rule_leaves_the_other_out_and_keeps_trained_models() -> None:
    console = Console(record=True, width=200, file=io.StringIO())
    output.show_scores([LINE], "json", console, "validation")
    found = json.loads(console.export_text())
    models = {row["model"] for row in found}
    assert {"base", "mixture", "routing", "tsv"} <= models and "average" not in models


# --- reading


def test_records_on_disk_give_the_same_table(tmp_path: Path) -> None:
    for result in RESULTS:
        write(result, tmp_path)
    (line,) = output.read([tmp_path])
    assert [(e.model, e.rule, e.sets) for e in line.models] == [
        (e.model, e.rule, e.sets) for e in LINE.models
    ]
    assert find("tsv", among=rows(line)).score == find("tsv").score
    with pytest.raises(InputError, match=r"(?s)no records of a line 'ful'.*did you mean 'full'"):
        output.read([tmp_path], ["ful"])
    with pytest.raises(InputError, match="with 77 questions"):
        output.read([tmp_path], n=77)


def test_no_records_are_said_with_the_command_that_makes_some(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        output.read([tmp_path])
    assert str(tmp_path) in str(caught.value) and "optmerge bench run" in str(caught.value)


def test_a_line_of_which_everything_failed_is_said_after_the_tables_of_the_others() -> None:
    broken = [
        replace(r, tasks={}, error="ImportError: no library")
        for r in synthetic.line("lora", n=20, swept=False)
    ]
    console = Console(record=True, width=200, file=io.StringIO())
    with pytest.raises(RunError, match=r"lora line.*base: ImportError: no library"):
        output.show_scores(line_scores([*RESULTS, *broken]), "terminal", console)
    assert "full line" in console.export_text()
    with pytest.raises(RunError, match="first failure"):
        output.show_scores(line_scores(broken), "json", console)
    assert console.export_text() == ""
