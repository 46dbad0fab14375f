"""`optmerge bench run`, `table`, `figure` and `preview` from the command line, on models made at random."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import time
from pathlib import Path

import pytest
from PIL import Image

from optmerge.bench.trials import figures
from optmerge.bench.trials.trials import read_all, write
from optmerge.cli import run
from worlds import records as synthetic
from worlds.samples import EVERYTHING

KEYS = ["line", "model", "capability", "score", "low", "high", "n", "seeds", "scale_rule", "normalised"]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("records")
    for result in (*synthetic.line(n=60), *synthetic.line("lora", n=60)):
        write(result, folder)
    return folder


def output(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What a command prints when it succeeds."""
    code = run(["bench", *map(str, arguments)])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return printed.out


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    code = run(["bench", *map(str, arguments)])
    printed = capsys.readouterr()
    assert code == 2 and "Traceback" not in printed.err, printed.err
    return printed.err


def lines(records: Path) -> int:
    """Records that a run has written so far."""
    return sum(path.read_bytes().count(b"\n") for path in records.rglob("trials.jsonl"))


def test_a_killed_run_continues_and_a_broken_model_fails_alone(
    zoo: Path, tmp_path: Path, without_processes: None, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = shutil.copytree(zoo / "lora", tmp_path / "zoo/lora")
    (broken / "mixture/0/adapter_config.json").write_text("{}")
    records, scratch = tmp_path / "records", tmp_path / "scratch"
    command = ["bench", "run", "--quick", "--n", "1", "--jobs", "1", "--method", "average"]
    command += ["--zoo", str(tmp_path / "zoo"), "--out", str(records), "--scratch", str(scratch)]
    process = multiprocessing.get_context("fork").Process(target=run, args=(command,))
    process.start()
    until = time.monotonic() + 300
    while lines(records) < 2 and process.is_alive() and time.monotonic() < until:
        time.sleep(0.02)
    process.kill()
    process.join()
    before = (records / "lora/trials.jsonl").read_bytes()
    assert before.count(b"\n") >= 2

    code = run(command)
    printed = capsys.readouterr()
    assert code == 1 and "1 of 8 trials failed" in printed.err, printed.err
    assert "lora set 0: mixture, test:" in printed.err
    assert "lora line, 1 question" in printed.out and "failed" in printed.out
    assert (records / "lora/trials.jsonl").read_bytes().startswith(before)
    done = [result.trial.identity() for result in read_all(records) if result.error is None]
    assert len(set(done)) == 7 and list(scratch.glob("*/*")) == []


def test_the_table_is_one_list_of_rows_for_programs(
    recorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = json.loads(output(capsys, "table", "--records", recorded, "--json"))
    assert all(list(row)[: len(KEYS)] == KEYS for row in rows)
    assert {row["line"] for row in rows} == {"full", "lora"}
    assert {row["capability"] for row in rows} == {*synthetic.TASKS, "average"}
    only = json.loads(output(capsys, "table", "--records", recorded, "--json", "--line", "full"))
    assert only == [row for row in rows if row["line"] == "full"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "lora line, 60 questions a capability"),
        (["--markdown"], "| optmerge | validation | 0.7 |"),
        (["--latex"], r"\begin{tabular}"),
        (["--csv"], "lora,optmerge,average,"),
        (["--pairs"], "differences of the average at the validation scale"),
        (["--paper", "--markdown"], "### Qwen2-VL-7B, published"),
        (["--rule", "fixed", "--n", "60"], "task_arithmetic"),
    ],
)
def test_the_table_comes_in_every_form(
    recorded: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    assert words in output(capsys, "table", "--records", recorded, *options)


@pytest.mark.sampled
def test_figures_are_written_and_named(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    some = {name: draw for name, draw in figures.FIGURES.items() if EVERYTHING or name in ("radar", "sweep")}
    monkeypatch.setattr(figures, "FIGURES", some)
    text = output(capsys, "figure", "--records", recorded, "--line", "lora", "--out", tmp_path / "f")
    paths = [Path(line) for line in text.split()]
    assert {path.stem for path in paths} == set(some) and len(paths) == 2 * len(some)
    assert all(path.stat().st_size > 5000 for path in paths)


def test_a_preview_is_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheets = []
    for options in ([], ["--captions"]):
        path = tmp_path / "new" / f"sheet{len(options)}.png"
        assert str(path) in output(capsys, "preview", "ocr", "--out", path, *options).replace("\n", "")
        with Image.open(path) as picture:
            sheets.append(picture.size)
    assert sheets[1][1] > sheets[0][1] > 500


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["preview", "grpunding", "--out", "x.png"], "did you mean 'grounding'"),
        (["run", "--line", "ful"], "did you mean 'full'"),
        (["run", "--zoo", "nowhere"], "no models to compare"),
        (["run", "--set", "one"], "expert sets are numbers"),
        (["table", "--records", "nowhere"], "optmerge bench run"),
        (["table", "--csv", "--json"], "only one form"),
        (["table", "--paper", "--pairs"], "aren't published"),
        (["figure", "--records", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_refused_with_what_to_do(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert words in refused(capsys, *arguments)


def test_unknown_methods_and_sets_are_refused_before_anything_runs(
    zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = ["--zoo", zoo, "--out", tmp_path / "r", "--scratch", tmp_path / "s"]
    assert "did you mean 'ties'" in refused(capsys, "run", "--method", "tiesa", *paths)
    assert "experts/7/vqa" in refused(capsys, "run", "--line", "lora", "--set", "0,7", *paths)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_record_is_named(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(synthetic.line(n=4)[0], tmp_path)
    path.write_text(path.read_text()[:100] + "\n")
    assert f"{path}, line 1" in refused(capsys, "table", "--records", tmp_path).replace("\n", "")


@pytest.mark.usefixtures("without_processes")
def test_a_run_of_which_everything_fails_ends_with_the_first_failure(
    zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = shutil.copytree(zoo / "lora", tmp_path / "zoo/lora")
    (broken / "base/config.json").write_text("{}")
    paths = ["--zoo", tmp_path / "zoo", "--out", tmp_path / "r", "--scratch", tmp_path / "s"]
    options = ["--quick", "--n", "1", "--jobs", "1", "--method", "average"]
    code = run(["bench", "run", *map(str, (*options, *paths))])
    printed = capsys.readouterr()
    assert code == 1 and "Traceback" not in printed.err
    assert "nothing of the lora line succeeded; the first failure: base:" in printed.err
    assert run(["bench", "table", "--records", str(tmp_path / "r")]) == 1
    assert "the first failure: base:" in capsys.readouterr().err


def test_a_table_reads_the_shipped_records_and_those_of_ones_own_runs(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("optmerge.bench.records.shipped", lambda benchmark: [tmp_path / "shipped"])
    for result in synthetic.line(n=60):
        write(result, tmp_path / "shipped")
    assert {row["line"] for row in json.loads(output(capsys, "table", "--json"))} == {"full"}
    shutil.copytree(recorded / "lora", tmp_path / "out/bench/lora")
    assert {row["line"] for row in json.loads(output(capsys, "table", "--json"))} == {"full", "lora"}
    only = json.loads(output(capsys, "table", "--json", "--records", "out/bench"))
    assert {row["line"] for row in only} == {"lora"}
