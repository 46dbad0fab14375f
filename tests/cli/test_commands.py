"""The command line: every command, with and without --json, and its exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
import yaml

import optmerge
from optmerge import cli
from optmerge.checkpoints.checkpoint_writer import CheckpointWriter
from optmerge.cli import Interrupted, run
from optmerge.errors import RunError
from optmerge.methods import registered
from worlds.merges import QUERY, World, contents, load, save_adapter, world


def subcommands(command: Any, *names: str) -> Iterator[tuple[str, Any]]:
    """Every command of the app that can be run, after the words that name it."""
    if not hasattr(command, "commands"):
        yield " ".join(names), command
        return
    for name, inner in command.commands.items():
        yield from subcommands(inner, *names, name)


COMMANDS = dict(subcommands(typer.main.get_command(cli.app)))


def output(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command prints when it succeeds."""
    code = run(list(arguments))
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return printed.out


def parsed(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    return json.loads(output(capsys, *arguments, "--json"))


# --- help and usage


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_an_example_and_every_option_has_words(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERMINAL_WIDTH", "200")  # Typer's own
    _, shown = output(capsys, *name.split(), "--help").split("Usage:")[1].split("\n", 1)
    assert f"optmerge {name} " in shown, "no example"
    for option in COMMANDS[name].params:
        words = getattr(option, "help", None)
        assert words, f"{name}: {option.name} is not explained"
        assert "".join(words.split()[:2]) in "".join(shown.split()), f"{name}: {option.name} is not shown"


@pytest.mark.parametrize("group", sorted({name.split()[0] for name in COMMANDS if " " in name}))
def test_the_help_of_a_group_names_its_commands(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = output(capsys, group, "--help").split()
    assert {name.split()[1] for name in COMMANDS if name.startswith(f"{group} ")} <= set(shown)


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["merge", "--nonsense"], ["inspect"], ["merge", "--out"]]
)
def test_usage_errors_exit_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_the_version_is_that_of_the_installed_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert output(capsys, "--version") == f"optmerge {metadata.version('optmerge')}\n"


def test_starting_costs_no_heavy_import() -> None:
    code = (
        "import sys, optmerge.cli; sys.exit(bool({'torch', 'transformers', 'rich.table'} & set(sys.modules)))"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- merge and plan


def test_a_recipe_and_options_ask_for_the_same_merge(
    models: World, recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    experts = [word for folder in models.experts for word in ("--expert", str(folder))]
    method = ("--method", "task_arithmetic", "--set", "scale=0.5")
    output(capsys, "merge", recipe, "--out", str(models.out))
    output(capsys, "merge", "--base", str(models.base), *experts, *method, "--out", str(models.root / "b"))

    assert contents(models.root / "b") == contents(models.out)


def test_options_win_over_the_recipe(models: World, recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    plain = parsed(
        capsys, "plan", recipe, "--method", "ties", "--set", "keep=0.5", "--expert", str(models.experts[1])
    )

    assert plain["methods"][0]["name"] == "ties"
    assert plain["methods"][0]["parameters"]["keep"] == 0.5
    assert [expert["name"] for expert in plain["experts"]] == ["e1"]


def test_without_a_method_it_is_the_default_one_and_the_plan_says_so(
    models: World, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = parsed(capsys, "plan", "--base", str(models.base), "--expert", str(models.experts[0]))

    assert (plain["methods"][0]["name"], plain["methods"][0]["scale"]) == ("swudi", "auto")
    words = output(capsys, "plan", "--base", str(models.base), "--expert", str(models.experts[0]))
    assert "auto: swudi, scale auto (√N rule" in words


def test_what_the_command_line_plans_is_what_python_plans(
    models: World, recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = json.loads(json.dumps(optmerge.plan(models.recipe()).plain()))

    assert parsed(capsys, "plan", recipe) == expected


def test_what_the_command_line_merges_is_what_python_merges(
    models: World, recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = parsed(capsys, "merge", recipe, "--out", str(models.out))
    optmerge.merge(models.recipe(), models.root / "python")

    assert contents(models.out) == contents(models.root / "python")
    assert found["counts"] == {"merge": 6, "copy": 5, "alias": 0}
    assert found["out"] == str(models.out)


def test_a_plan_for_people_folds_layers_and_says_why(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    folded, full = output(capsys, "plan", recipe), output(capsys, "plan", recipe, "--tensors")

    assert "model.layers.*.self_attn.q_proj.weight" in folded
    assert "kind norm is not selected" in folded and "11 tensors: 6 merged, 5 copied" in folded
    assert QUERY in full


def test_a_merge_for_people_says_what_to_do_next(
    models: World, recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = output(capsys, "merge", recipe, "--out", str(models.out))

    assert "6 tensors merged, 5 copied" in printed
    assert f"next: optmerge verify {models.out}" in printed


def test_quiet_is_quiet(models: World, recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["merge", recipe, "--out", str(models.out), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_names_with_brackets_are_printed_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from worlds.merges import weights

    models = world(tmp_path, base=weights() | {"model.[bold]odd.weight": torch.ones(2, 2)})
    file = tmp_path / "r.yaml"
    file.write_text(yaml.safe_dump(models.recipe()))

    assert "model.[bold]odd.weight" in output(capsys, "plan", str(file))


def test_overwrite_and_resume_are_passed_on(
    models: World, recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output(capsys, "merge", recipe, "--out", str(models.out))
    assert run(["merge", recipe, "--out", str(models.out)]) == 2
    output(capsys, "merge", recipe, "--out", str(models.out), "--resume")
    output(capsys, "merge", recipe, "--out", str(models.out), "--overwrite", "--set", "scale=0.1")

    base, first = models.tensors()[QUERY], load(models.out)[QUERY]
    change = sum(models.tensors(index)[QUERY] - base for index in (0, 1))
    torch.testing.assert_close(first, base + 0.1 * change)


def test_merging_adapters_into_an_adapter_reports_its_truncation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = world(tmp_path, experts=0)
    experts = [
        word for seed in (0, 1) for word in ("--expert", str(save_adapter(tmp_path / f"a{seed}", seed=seed)))
    ]
    arguments = ["merge", "--base", str(models.base), *experts, "--method", "task_arithmetic", "--set"]
    exact = parsed(capsys, *arguments, "output=adapter", "--out", str(tmp_path / "exact"))
    cut = parsed(capsys, *arguments, "output={format: adapter, rank: 1}", "--out", str(tmp_path / "cut"))

    assert exact["truncation"] < 1e-6 < cut["truncation"] < 1
    assert "adapter for" in output(capsys, "inspect", str(tmp_path / "cut"))


# --- inspect and methods


def test_inspect_counts_every_parameter_once(models: World, capsys: pytest.CaptureFixture[str]) -> None:
    found = parsed(capsys, "inspect", str(models.base))

    assert found["tensors"] == sum(row["tensors"] for row in found["roles"]) == 11
    assert found["parameters"] == sum(tensor.numel() for tensor in models.tensors().values())
    assert {(row["component"], row["kind"]) for row in found["roles"]} >= {("language", "matrix")}
    assert "language" in output(capsys, "inspect", str(models.base))


def test_inspect_shows_an_adapters_targets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = str(save_adapter(tmp_path / "a", rank=3))
    found = parsed(capsys, "inspect", adapter)

    assert {(row["module"], row["rank"]) for row in found["targets"]} == {("q_proj", 3), ("up_proj", 3)}
    assert "q_proj" in output(capsys, "inspect", adapter)


def test_methods_lists_every_method_with_its_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    found = {method["name"]: method for method in parsed(capsys, "methods")}

    assert list(found) == list(registered())
    assert found["ties"]["parameters"]["keep"]["default"] == 0.2
    assert found["ties"]["doc"] and found["average"]["fixed_scale"]
    printed = output(capsys, "methods")
    assert all(name in printed for name in found)


@pytest.mark.parametrize("name", sorted(registered()))
def test_every_method_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "Source" in output(capsys, "methods", name)


def test_an_unknown_method_is_met_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["methods", "optmerg"]) == 2
    assert "did you mean 'optmerge'?" in capsys.readouterr().err


# --- exit codes of what isn't the user's fault


@pytest.mark.parametrize(
    ("problem", "code", "words"),
    [
        (RunError("the disk is full; make room and resume"), 1, "error: the disk is full"),
        (MemoryError(), 1, "error: there isn't enough memory; set --memory"),
        (Interrupted(2), 130, "continues with the same command and --resume"),
        (Interrupted(15), 143, "continues with the same command and --resume"),
    ],
    ids=["full disk", "no memory", "SIGINT", "SIGTERM"],
)
def test_other_ends_have_codes_of_their_own(
    problem: BaseException,
    code: int,
    words: str,
    models: World,
    recipe: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*arguments: object) -> None:
        raise problem

    monkeypatch.setattr(CheckpointWriter, "write_flat", fail)

    assert run(["merge", recipe, "--out", str(models.out)]) == code
    assert words in capsys.readouterr().err
    assert (models.out / ".optmerge").is_dir()


@pytest.mark.parametrize(
    ("command", "extra"), [("bench demo", "bench"), ("omni table", "bench"), ("eval m q", "ask")]
)
def test_a_package_that_isnt_installed_is_named_with_what_brings_it(
    command: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(arguments: list[str]) -> None:
        raise ModuleNotFoundError("No module named 'PIL'", name="PIL")

    monkeypatch.setattr(cli, "app", missing)
    assert run(command.split()) == 2
    assert capsys.readouterr().err == f"error: PIL isn't installed\n  next: pip install 'optmerge[{extra}]'\n"


def test_a_module_of_ours_that_is_missing_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(arguments: list[str]) -> None:
        raise ModuleNotFoundError("No module named 'optmerge.nowhere'", name="optmerge.nowhere")

    monkeypatch.setattr(cli, "app", missing)
    with pytest.raises(ModuleNotFoundError):
        run(["plan"])


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "optmerge.cli", "methods", "--json"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)

    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 1)


@pytest.mark.parametrize(("content", "code"), [(None, 0), ("why it stopped", 1), (3, 3)])
def test_exits_of_other_libraries_keep_their_code(
    content: str | int | None, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from optmerge import cli

    def leave(arguments: list[str]) -> None:
        raise SystemExit(content)

    monkeypatch.setattr(cli, "app", leave)

    assert run([]) == code
