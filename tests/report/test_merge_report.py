"""The report of a merge: its numbers are those of the records, its page needs nothing and trusts nobody."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

import optmerge
from optmerge.analysis.analyze import analyze
from optmerge.cli import run
from optmerge.errors import CheckpointError, InputError
from optmerge.report.blocks import html, markdown
from optmerge.report.merge_report import ANALYSIS, MergeRecord, merge_report, read_merge
from worlds.merges import World, world

Rows = dict[str, list[list[str]]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A merge with its analysis and its recipe, all under one folder."""
    models = world(tmp_path_factory.mktemp("report"), experts=3)
    recipe = models.recipe(method="swudi")
    (models.root / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    optmerge.merge(recipe, models.out)
    (models.out / ANALYSIS).write_text(json.dumps(analyze(recipe).plain()))
    return models


@pytest.fixture
def record(made: World) -> MergeRecord:
    return read_merge(made.out)


class _Tables(HTMLParser):
    """The cells of each table, by its label."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: Rows = {}
        self._rows: list[list[str]] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self._rows = self.tables.setdefault(dict(attrs)["aria-label"] or "", [])
        if tag == "tr":
            self._rows.append([])
        if tag in ("td", "th"):
            self._rows[-1].append("")
        self._inside = tag in ("td", "th")

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._inside:
            self._rows[-1][-1] += data


def tables(page: str) -> Rows:
    parser = _Tables()
    parser.feed(page)
    return parser.tables


def near(text: str, value: float | None) -> bool:
    """Whether a cell shows a value, to the digits that it has."""
    if value is None:
        return text == "–"
    shown = float(text.removesuffix(" %").replace(",", "")) / (100 if text.endswith("%") else 1)
    return (
        abs(shown - value) <= 0.006 * max(1.0, abs(value))
        if "%" not in text
        else abs(shown - value) <= max(1e-5, 0.006 * abs(value))
    )


def test_every_number_of_the_tables_is_the_record_s(record: MergeRecord) -> None:
    shown = tables(html(merge_report(record)))
    analysis = record.analysis
    assert analysis is not None

    experts = next(rows for label, rows in shown.items() if label.startswith("The experts"))
    for head, *_, moved, length, cosine, interference in experts[1:]:
        own = analysis["total"]["experts"][head]
        assert near(moved, own["delta"]["moved"]) and near(length, analysis["lengths"][head])
        assert near(cosine, own["cosine"]) and near(interference, own["interference"])
    maps: dict[str, Callable[[Any], float | None]] = {
        "How far the merge moves the base, ‖sM‖/‖W₀‖": lambda each: each["merged"]["moved"],
        "Interference with e1": lambda each: each["experts"]["e1"]["interference"],
    }
    for label, take in maps.items():
        columns, *rows = shown[label]
        places = {
            (row[0], column): cell for row in rows for column, cell in zip(columns[1:], row[1:], strict=True)
        }
        assert len(places) == len(analysis["tensors"])
        for each in analysis["tensors"]:
            assert near(places[f"layer {each['layer']}", each["module"]], take(each)), each["name"]
    scales = {
        cell for row in shown["Scale of each tensor"][1:] for cell in row[1:]
    }  # of provenance, not of the analysis
    for fate in record.provenance["tensors"].values():
        assert "scale" not in fate or f"{fate['scale']:.2f}" in scales
    counted = sum(int(row[-1]) for row in shown["Every tensor of the base"][1:])
    assert counted == len(record.provenance["tensors"])


def test_markdown_has_the_text_of_every_cell_of_the_page(record: MergeRecord) -> None:
    made = merge_report(record)
    text = markdown(made).replace("\\", "")
    for rows in tables(html(made)).values():
        for row in rows:
            for cell in row:
                assert cell in text


def test_json_is_the_records_as_they_are(made: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["report", str(made.out), "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["provenance"] == json.loads((made.out / "optmerge.json").read_text())
    assert found["analysis"] == json.loads((made.out / ANALYSIS).read_text())


def test_the_page_needs_no_network_and_no_script(record: MergeRecord) -> None:
    page = html(merge_report(record))
    assert not re.search(r"<script|<link|<img|src=|url\(|https?://|@import", page)
    assert "default-src 'none'" in page and len(page) < 100_000


HOSTILE = "<img src=x onerror=alert(1)>\x1b[31m|`*"


def test_names_from_files_are_text(record: MergeRecord) -> None:
    text = json.dumps([record.provenance, record.analysis]).replace('"e1"', json.dumps(HOSTILE))
    provenance, analysis = json.loads(text)
    made = merge_report(MergeRecord(HOSTILE, provenance, analysis, 0))

    assert "<img" not in html(made) and "\x1b" not in html(made)
    assert "\x1b" not in markdown(made)


def test_without_an_analysis_the_page_says_how_to_make_one(record: MergeRecord) -> None:
    made = merge_report(MergeRecord(record.name, record.provenance, None, record.weight_bytes))
    page = html(made)
    assert "optmerge analyze RECIPE" in page
    assert "Every tensor of the base" in tables(page)


# --- files


def test_a_report_is_written_beside_the_merge_and_replaces_itself_alone(
    made: World, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["report", str(made.out)]
    assert [run(arguments), run(arguments)] == [0, 0]
    page = Path(capsys.readouterr().out.splitlines()[0])
    assert page == made.root / "out-report.html"
    page.write_text("my notes")
    assert run(arguments) == 2
    assert page.read_text() == "my notes"


def test_an_analysis_is_made_of_the_recipe_on_request(made: World) -> None:
    page, expected = made.root / "page.html", made.root / "expected.html"
    out = made.root / "fresh"
    shutil.copytree(made.out, out)
    (out / ANALYSIS).unlink()
    assert run(["report", str(out), "--recipe", str(made.root / "recipe.yaml"), "--out", str(page)]) == 0
    assert run(["report", str(out), "--analysis", str(made.out / ANALYSIS), "--out", str(expected)]) == 0
    assert page.read_bytes() == expected.read_bytes()


def test_an_analysis_of_another_merge_is_refused(made: World) -> None:
    other = json.loads((made.out / ANALYSIS).read_text()) | {"fingerprint": "0" * 64}
    with pytest.raises(InputError, match="of another merge"):
        read_merge(made.out, other)


def test_a_folder_without_a_finished_merge_is_refused(
    made: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["report", str(made.base)]) == 2
    assert "neither a finished merge" in capsys.readouterr().err


SPOILT: dict[str, Callable[[Any, Any], object]] = {
    "no methods": lambda provenance, _: provenance.pop("methods"),
    "tensors in a list": lambda provenance, _: provenance.update(tensors=[1]),
    "a weight of text": lambda provenance, _: provenance.update(experts="e0"),
    "no total": lambda _, analysis: analysis.pop("total"),
    "text for numbers": lambda _, analysis: analysis["total"]["merged"].update(stable_rank="much"),
    "another expert": lambda _, analysis: analysis["total"]["experts"].pop("e1"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_records_of_another_form_are_refused(record: MergeRecord, name: str) -> None:
    provenance, analysis = json.loads(json.dumps([record.provenance, record.analysis]))
    SPOILT[name](provenance, analysis)
    with pytest.raises(CheckpointError, match="can't be understood"):
        merge_report(MergeRecord("out", provenance, analysis, 0))


# --- in a browser

CHROMIUM = next(
    (name for name in ("chromium", "chromium-browser", "google-chrome") if shutil.which(name)), None
)

MEASURE = """<body><script>
const widths = [375, 1440], found = [];
for (const width of widths) {
  const frame = document.createElement("iframe");
  frame.style.width = width + "px";
  frame.src = "page.html";
  frame.onload = () => {
    const root = frame.contentDocument.documentElement;
    const fits = root.scrollWidth <= root.clientWidth;
    found.push(width + ":" + (fits ? "fits" : "overflows " + root.scrollWidth));
    if (found.length === widths.length) document.body.textContent = found.sort().join(" ");
  };
  document.body.append(frame);
}
</script></body>"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_fits_phones_and_screens_without_an_error(
    record: MergeRecord, tmp_path: Path, theme: str
) -> None:
    (tmp_path / "page.html").write_text(html(merge_report(record)), "utf-8")
    (tmp_path / "measure.html").write_text(MEASURE, "utf-8")
    assert CHROMIUM is not None
    dark = ["--blink-settings=preferredColorScheme=0"] if theme == "dark" else []
    done = subprocess.run(
        [
            CHROMIUM,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--allow-file-access-from-files",
            "--enable-logging=stderr",
            "--virtual-time-budget=20000",
            *dark,
            "--dump-dom",
            (tmp_path / "measure.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert "1440:fits 375:fits" in done.stdout
    assert "CONSOLE" not in done.stderr
