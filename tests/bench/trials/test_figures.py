from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from PIL import Image

from optmerge.bench.trials import figures
from optmerge.bench.trials.figures import FIGURES, draw
from optmerge.bench.trials.figures.style import STYLES, spread, style
from optmerge.bench.trials.line_scores import line_scores
from optmerge.methods import registered
from worlds import records as synthetic
from worlds.samples import EVERYTHING, sample

SHOWN = [name for name in FIGURES if EVERYTHING or name in ("heat", "paper")]
"""The others are drawn by `make test` in what follows and in `cli/test_bench.py`, one test each."""
RESULTS = [*synthetic.line(n=60), *synthetic.line("lora", n=60, sets=2)]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Any]:
    folder = tmp_path_factory.mktemp("figures")
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("error")
        only(patch, SHOWN)
        return {path.name: path for path in draw(line_scores(RESULTS), folder)}


def only(monkeypatch: pytest.MonkeyPatch, names: Any) -> None:
    """Has only some figures drawn, each of which takes seconds."""
    monkeypatch.setattr(figures, "FIGURES", {name: FIGURES[name] for name in FIGURES if name in names})


def words(path: Path) -> Any:
    """The texts of an SVG, which matplotlib names in comments."""
    return re.findall(r"<!-- (.*?) -->", path.read_text("utf-8"))


@pytest.mark.sampled
def test_every_figure_is_drawn_as_png_and_svg(drawn: Mapping[str, Path]) -> None:
    assert set(drawn) == {f"{name}.{ending}" for name in SHOWN for ending in ("png", "svg")}
    for name in SHOWN:
        with Image.open(drawn[f"{name}.png"]) as picture:
            assert min(picture.size) > 500 and len(picture.convert("RGB").getcolors(1 << 24)) > 50


@pytest.mark.sampled
@pytest.mark.parametrize("name", SHOWN)
def test_a_figure_names_its_lines_and_what_it_compares(drawn: Mapping[str, Path], name: str) -> None:
    found = words(drawn[f"{name}.svg"])
    assert any("full line" in text for text in found) and any("lora line" in text for text in found)
    assert {"optmerge", "tsv"} <= set(found)


def test_the_heat_map_says_the_scores(drawn: Mapping[str, Path]) -> None:
    (full, _) = line_scores(RESULTS)
    score = 100 * full.find("expert", "chart").scores["chart"].mean()
    assert f"{score:.1f}" in words(drawn["heat.svg"]) and "Chart expert" in words(drawn["heat.svg"])


def test_the_papers_results_stand_beside_ours(drawn: Mapping[str, Path]) -> None:
    assert {"InternVL2.5-1B, published", "57.4", "Qwen2-VL-7B, published", "63.3"} <= set(
        words(drawn["paper.svg"])
    )


@pytest.mark.sampled
def test_equal_records_give_equal_bytes(
    drawn: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(monkeypatch, sample(SHOWN, 1))
    again = {path.name: path for path in draw(line_scores(RESULTS), tmp_path)}
    assert all(path.read_bytes() == drawn[name].read_bytes() for name, path in again.items())


@pytest.mark.sampled
def test_without_sweeps_their_figure_is_left_out_and_failures_leave_gaps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"sweep", "cost", *(FIGURES if EVERYTHING else ())}
    only(monkeypatch, names)
    results = synthetic.line(n=20, swept=False)
    broken = [replace(r, tasks={}, error="NaN") if r.trial.model == "ties" else r for r in results]
    paths = draw(line_scores(broken), tmp_path)
    assert {path.stem for path in paths} == names - {"sweep"}
    assert "ties" not in words(tmp_path / "cost.svg")


def test_drawing_leaves_matplotlib_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, ["cost"])
    before = (matplotlib.get_backend(), dict(matplotlib.rcParams))
    draw(line_scores(synthetic.line(n=10, swept=False)), tmp_path)
    assert (matplotlib.get_backend(), dict(matplotlib.rcParams)) == before


def test_no_two_methods_look_alike() -> None:
    assert len({style(name) for name in registered()}) == len(registered())


def test_how_a_method_looks_is_its_own_whatever_others_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    names = list(registered())
    before = {name: style(name) for name in names}
    known = registered() | {"a_new_one": registered()["ties"]}
    for module in [module for module in sys.modules.values() if hasattr(module, "registered")]:
        if module.registered is registered:
            monkeypatch.setattr(module, "registered", lambda: known)
    assert {name: style(name) for name in names} == before
    assert style("a_new_one") == style("a_new_one") != style("another")
    assert style("a_new_one") not in STYLES.values()
    assert (style("ties").colour, style("ties").mark, style("ties").dash) == ("#CC79A7", "D", "--")


def test_labels_keep_their_order_and_distance_and_stay_near() -> None:
    assert spread([1.0, 1.0, 5.0], 1.0) == [0.5, 1.5, 5.0]
    assert spread([5.0, 1.0], 1.0) == [5.0, 1.0]
    found = spread([3.0, 3.1, 3.2, 0.0], 1.0)
    assert found == pytest.approx([2.1, 3.1, 4.1, 0.0])
