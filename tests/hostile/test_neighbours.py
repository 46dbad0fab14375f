"""Hostile files beside the weights: model cards, provenance, journals, links."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import optmerge
from optmerge import Options
from optmerge.cli import run
from optmerge.engine.output.folder import PROVENANCE, STATE
from optmerge.errors import OutputError
from worlds.merges import World, contents, save_adapter, weights, world


@pytest.fixture
def models(tmp_path: Path) -> World:
    return world(tmp_path)


# --- model cards, from which the licence is taken

LAUGHS = "\n".join(["a0: &a0 {x: 1}", *(f"a{n + 1}: &a{n + 1} {{<<: [*a{n}, *a{n}]}}" for n in range(60))])

CARDS: dict[str, str] = {
    "a day that isn't": "date: 2024-02-31",
    "a number to the base 60": "n: " + ":".join(["1"] * 300) + ".0",
    "an alias bomb": "a: &a [x, x]\nb: &b [*a, *a]",
    "a bomb of merged keys": LAUGHS,
    "a tag": "license: !!python/object/apply:os.getcwd []",
    "brackets": "a: " + "[" * 5000,
    "a key that is a list": "? [a]\n: b",
    "a licence over two lines": 'license: "mit\\n\\n# Buy now"',
    "a licence that drives the terminal": 'license: "\\e[2J"',
    "a licence without end": "license: " + "x" * 5000,
    "a licence that is a list": "license: [mit]",
}


@pytest.mark.parametrize("head", CARDS.values(), ids=CARDS.keys())
def test_a_strange_card_states_no_licence(models: World, head: str) -> None:
    (models.base / "README.md").write_text(f"---\n{head}\n---\n")
    started = time.process_time()
    optmerge.merge(models.recipe(), models.out)

    assert time.process_time() - started < 10
    assert "| base | base | | not stated |" in (models.out / "README.md").read_text()


def pipe(card: Path) -> None:
    os.mkfifo(card)


def endless(card: Path) -> None:
    card.symlink_to("/dev/zero")


def somewhere_else(card: Path) -> None:
    (card.parent.parent / "card").write_text("---\nlicense: mit\n---\n")
    card.symlink_to("../card")


@pytest.mark.parametrize("make", [pipe, endless, somewhere_else])
def test_a_card_that_is_no_file_of_the_model_is_not_read(models: World, make: Callable[[Path], None]) -> None:
    make(models.base / "README.md")
    optmerge.merge(models.recipe(), models.out)

    assert "| base | base | | not stated |" in (models.out / "README.md").read_text()


def test_a_plain_card_states_its_licence(models: World) -> None:
    (models.base / "README.md").write_text("---\nlicense: apache-2.0\ntags: [a, b]\n---\n# Model\n")
    optmerge.merge(models.recipe(), models.out)

    assert "| base | base | | apache-2.0 |" in (models.out / "README.md").read_text()


# --- provenance of a folder that came from elsewhere

PROVENANCES: list[Any] = [
    [],
    3,
    {"recipe": "x"},
    {"recipe": {"base": 3}},
    {"tensors": {"a": 1}},
    {"tensors": {"a": {}}},
    {"tensors": [1]},
    {"files": 3, "fingerprint": []},
    {"files": [3, None, "/etc/passwd", "../e0/config.json", "\0"]},
]


@pytest.mark.parametrize("provenance", PROVENANCES, ids=str)
def test_strange_provenance_is_no_traceback(models: World, provenance: Any) -> None:
    (models.base / PROVENANCE).write_text(json.dumps(provenance))

    assert run(["verify", "--no-load", str(models.base)]) in (0, 1)


def test_provenance_without_end_is_no_traceback(models: World) -> None:
    (models.base / PROVENANCE).write_text("[" * 100_000)

    assert run(["verify", "--no-load", str(models.base)]) == 0


@pytest.mark.parametrize("provenance", PROVENANCES, ids=str)
def test_overwriting_removes_nothing_outside_the_folder(models: World, provenance: Any) -> None:
    models.out.mkdir()
    (models.out / PROVENANCE).write_text(json.dumps(provenance))
    before = contents(models.experts[0])
    optmerge.merge(models.recipe(), models.out, Options(mode="overwrite"))

    assert contents(models.experts[0]) == before
    assert (models.out / "model.safetensors").exists()


def test_overwriting_removes_nothing_by_way_of_a_link(models: World) -> None:
    models.out.mkdir()
    (models.root / "mine").mkdir()
    (models.root / "mine" / "thesis.tex").write_text("years of work")
    (models.out / "sub").symlink_to("../mine")
    (models.out / PROVENANCE).write_text(json.dumps({"files": ["sub/thesis.tex"]}))
    optmerge.merge(models.recipe(), models.out, Options(mode="overwrite"))

    assert (models.root / "mine" / "thesis.tex").read_text() == "years of work"


def test_nothing_is_written_by_way_of_a_link(models: World) -> None:
    (models.base / "sub").mkdir()
    (models.base / "sub" / "vocabulary.txt").write_text("a side file in a folder")
    models.out.mkdir()
    (models.root / "mine").mkdir()
    (models.out / "sub").symlink_to("../mine")
    (models.out / PROVENANCE).write_text("{}")
    with pytest.raises(OutputError, match="link that leads elsewhere"):
        optmerge.merge(models.recipe(), models.out, Options(mode="overwrite"))
    assert not list((models.root / "mine").iterdir())

    (models.out / "sub").unlink()
    optmerge.merge(models.recipe(), models.out, Options(mode="resume"))
    assert (models.out / "sub" / "vocabulary.txt").read_text() == "a side file in a folder"


# --- the state folder


@pytest.mark.parametrize("mode", ["resume", "overwrite"])
@pytest.mark.parametrize("link", [STATE, f"{STATE}/staging"])
def test_a_state_folder_that_is_a_link_is_refused(models: World, mode: Any, link: str) -> None:
    (models.root / "mine" / "staging").mkdir(parents=True)
    (models.root / "mine" / "staging" / "thesis.tex").write_text("years of work")
    (models.out / link).parent.mkdir(parents=True)
    (models.out / link).symlink_to(models.root / "mine")
    with pytest.raises(OutputError, match="is a link"):
        optmerge.merge(models.recipe(), models.out, Options(mode=mode))

    assert (models.root / "mine" / "staging" / "thesis.tex").exists()


@pytest.mark.parametrize(
    "journal",
    [b"", b"3\n", b"[]\n", b"\xff\xfe\n", b"[" * 100_000, b'{"written": 3}\n', bytes(4096)],
    ids=lambda data: repr(data[:10]),
)
def test_a_journal_that_makes_no_sense_starts_the_merge_over(models: World, journal: bytes) -> None:
    (models.out / STATE).mkdir(parents=True)
    (models.out / STATE / "journal.jsonl").write_bytes(journal)
    optmerge.merge(models.recipe(), models.out, Options(mode="resume"))
    optmerge.merge(models.recipe(), models.root / "whole")

    assert contents(models.out) == contents(models.root / "whole")


# --- names that would drive a terminal

EVIL = "model.layers.0.[/bold]\x1b[2J\x07.weight"


def test_names_do_not_drive_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = world(tmp_path, base=weights() | {EVIL: torch.ones(2, 2)})
    file = tmp_path / "r.yaml"
    file.write_text(yaml.safe_dump(models.recipe()))
    out = tmp_path / "out[/bold]"
    commands = [
        ["plan", str(file), "--tensors"],
        ["merge", str(file), "--out", str(out)],
        ["inspect", str(models.base)],
    ]
    for command in commands:
        assert run(command) == 0
    models.rewrite(0, lambda tensors: tensors.pop(EVIL))
    assert run(commands[0]) == 2

    printed = capsys.readouterr()
    assert "[/bold]\\x1b[2J\\x07" in printed.out and "[/bold]\\x1b[2J\\x07" in printed.err
    assert "\x1b" not in printed.out + printed.err


def test_an_adapter_s_words_do_not_drive_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_adapter(tmp_path / "a", settings={"base_model_name_or_path": "[/bold]\x1b[2J"})

    assert run(["inspect", str(folder)]) == 0
    assert "adapter for [/bold]\\x1b[2J" in capsys.readouterr().out


def test_a_message_has_an_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save_adapter(tmp_path / "a", settings={"r": "9" * 1_000_000})

    assert run(["inspect", str(folder)]) == 2
    assert len(capsys.readouterr().err) < 5000


# --- bare pipes


def test_a_pipe_in_the_place_of_a_tokenizer_is_refused(
    models: World, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in (models.base, models.experts[0]):
        os.mkfifo(folder / "tokenizer.json")
    file = models.root / "r.yaml"
    file.write_text(yaml.safe_dump(models.recipe()))

    assert run(["merge", str(file), "--out", str(models.out)]) == 2
    assert "a pipe, socket or device" in capsys.readouterr().err
    assert not models.out.exists()
