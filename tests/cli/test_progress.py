"""Progress: a bar on a terminal, lines in a log, nothing when quiet; resumed merges start where they are."""

from __future__ import annotations

import os
import pty
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import optmerge
from optmerge.cli import progress, run
from optmerge.cli.console import time_words
from optmerge.engine.output import dense as dense_output
from optmerge.engine.output.folder import STATE
from worlds.commands import Commands
from worlds.merges import World, save_adapter, watching, world

ESCAPE = "\x1b"


Terminal = Callable[..., tuple[int, str]]


@pytest.fixture
def on_a_terminal(commands: Commands) -> Terminal:
    """Exit code and standard error of a command whose standard error is a terminal."""

    def shown(
        *arguments: str, terminal: str = "xterm", when_seen: tuple[str, Callable[[int], None]] | None = None
    ) -> tuple[int, str]:
        ours, theirs = pty.openpty()
        environment = {"TERM": terminal, "COLUMNS": "100"}
        command = commands.start(
            *arguments, errors=Path(os.ttyname(theirs)), pause=0.02, environment=environment
        )
        os.close(theirs)
        seen = ""
        while True:
            try:
                seen += os.read(ours, 4096).decode()
            except OSError:  # nobody holds the other end any more
                break
            if when_seen and when_seen[0] in seen:
                when_seen[1](command.pid)
                when_seen = None
        os.close(ours)
        return command.wait(), seen

    return shown


def test_a_terminal_shows_a_bar_with_tensors_bytes_rate_and_time_left(
    models: World, recipe: str, on_a_terminal: Terminal
) -> None:
    code, seen = on_a_terminal("merge", recipe, "--out", str(models.out))

    assert code == 0
    assert "━" in seen
    assert re.search(r"\d/11 tensors, [\d.]+ k?B of 1\.9 kB, [\d.]+ k?B/s, \d+ s left", seen), seen
    assert seen.rindex(f"{ESCAPE}[?25h") > seen.rindex(f"{ESCAPE}[?25l"), "the cursor is shown again"


def test_an_interrupted_bar_leaves_the_terminal_in_order(
    models: World, recipe: str, on_a_terminal: Terminal
) -> None:
    code, seen = on_a_terminal(
        "merge",
        recipe,
        "--out",
        str(models.out),
        when_seen=("/11 tensors", lambda process: os.kill(process, signal.SIGINT)),
    )

    assert code == 130
    assert f"{ESCAPE}[?25h" in seen
    assert seen.rstrip().endswith("interrupted; a merge continues with the same command and --resume")


@pytest.mark.parametrize("options", [["--quiet"], ["--json"]])
def test_nothing_is_shown_on_a_terminal_when_it_is_not_wanted(
    models: World, recipe: str, options: list[str], on_a_terminal: Terminal
) -> None:
    assert on_a_terminal("merge", recipe, "--out", str(models.out), *options) == (0, "")


def test_a_terminal_that_can_t_move_its_cursor_gets_no_bar(
    models: World, recipe: str, on_a_terminal: Terminal
) -> None:
    code, seen = on_a_terminal("merge", recipe, "--out", str(models.out), terminal="dumb")

    assert code == 0 and ESCAPE not in seen


def test_a_log_gets_plain_lines(
    models: World, recipe: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    assert run(["merge", recipe, "--out", str(models.out)]) == 0
    lines = capsys.readouterr().err.splitlines()

    assert len(lines) == 11 and ESCAPE not in "".join(lines)
    assert lines[-1].startswith("11/11 tensors, 1.9 kB of 1.9 kB, ") and lines[-1].endswith(", 0 s left")


def test_a_log_of_a_short_merge_stays_empty(
    models: World, recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["merge", recipe, "--out", str(models.out)]) == 0
    assert capsys.readouterr().err == ""


def test_a_resumed_merge_begins_where_it_is(
    models: World, recipe: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dense_output, "SYNC_SECONDS", 0.0)
    left = 6

    def stop(tensor: object, size: int) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optmerge.merge(yaml.safe_load(Path(recipe).read_text()), models.out, watch=watching(stop))
    assert (models.out / STATE).is_dir()
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    assert run(["merge", recipe, "--out", str(models.out), "--resume"]) == 0
    lines = capsys.readouterr().err.splitlines()

    assert int(lines[0].split("/")[0]) > 5
    assert lines[-1].startswith("11/11 tensors, 1.9 kB of 1.9 kB")


def test_a_merged_adapter_is_all_there_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    models = world(tmp_path, experts=0)
    experts = [str(save_adapter(tmp_path / f"a{seed}", seed=seed)) for seed in (0, 1)]
    file = tmp_path / "r.yaml"
    file.write_text(yaml.safe_dump(models.recipe(experts=experts, output="adapter")))
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    assert run(["merge", str(file), "--out", str(models.out)]) == 0

    assert capsys.readouterr().err.splitlines()[-1].startswith("2/2 tensors")


def test_no_time_is_guessed_from_next_to_nothing(models: World) -> None:
    meter = progress.Meter(optmerge.plan(models.recipe()), ())
    time.sleep(0.01)
    meter.add(1)

    assert meter.words() == "1/11 tensors, 1 B of 1.9 kB"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "0 s"),
        (99.4, "99 s"),
        (100, "2 min"),
        (5900, "98 min"),
        (6100, "1 h 42 min"),
        (1e6, "277 h 47 min"),
    ],
)
def test_times_are_put_into_words(seconds: float, words: str) -> None:
    assert time_words(seconds) == words
