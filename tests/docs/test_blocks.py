"""What stands in code on the pages can be typed as it stands."""

from __future__ import annotations

import ast
import contextlib
import importlib
import io
import os
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from docs.blocks import PAGES, ROOT, Block, blocks, commands, is_run
from optmerge.cli import app, run
from optmerge.engine.planning.request import check_recipe
from optmerge.recipe import Recipe, parse_recipe
from worlds import samples
from worlds.methods import own_registry

RUN = [page for page in PAGES if is_run(page)]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_have_these_arguments_and_options(page: Path) -> None:
    for words, whole in commands(page):
        _parse(words, whole)


def _parse(words: list[str], whole: bool) -> None:
    command: Any = typer.main.get_command(app)
    rest = list(words)
    while rest and hasattr(command, "commands") and not rest[0].startswith("-"):
        assert rest[0] in command.commands, words
        command = command.commands[rest.pop(0)]
    if hasattr(command, "commands"):
        return
    try:
        command.make_context("page", rest)
    except Exception as problem:
        partial = not whole and type(problem).__name__ == "MissingParameter"
        assert partial, (words, problem)


def recipes(page: Path) -> list[Block]:
    """Blocks of a page that are recipes, or parts of one."""
    keys = set(Recipe.model_fields)
    return [
        block
        for block in blocks(page)
        if block.kind == "yaml" and (set(yaml.safe_load(block.text)) & keys) and "mergekit" not in block.title
    ]


@pytest.mark.parametrize("page", [page for page in PAGES if recipes(page)], ids=name)
def test_recipes_say_what_a_recipe_can_say(page: Path) -> None:
    for block in recipes(page):
        recipe = parse_recipe({"base": "base", "experts": ["ocr", "chart"], **yaml.safe_load(block.text)})
        check_recipe(recipe)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_imports_what_is_there(page: Path) -> None:
    for block in blocks(page):
        if block.kind != "python" or "import " not in block.text:  # a part of a file, or a signature
            continue
        for statement in ast.walk(ast.parse(block.text)):
            if isinstance(statement, ast.ImportFrom) and (statement.module or "").startswith("optmerge"):
                module = importlib.import_module(statement.module)
                for each in statement.names:  # a name of the module, or a module in a package
                    assert hasattr(module, each.name) or find_spec(f"{statement.module}.{each.name}")


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=name)
def test_a_pages_blocks_work_as_they_stand(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a folder with the shipped models, and the names that pages give to a base and two experts."""
    lora = ROOT / "zoo/lora"
    for link, target in (
        ("zoo", ROOT / "zoo"),
        ("base", lora / "base"),
        ("ocr", lora / "experts/0/ocr"),
        ("chart", lora / "experts/0/chart"),
    ):
        (tmp_path / link).symlink_to(target)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    printed = None
    with own_registry():
        for block in blocks(page):
            if block.kind == "text" and printed is not None:
                assert printed == block.text, page
            printed = _worked(block, capsys)


def _worked(block: Block, capsys: pytest.CaptureFixture[str]) -> str | None:
    """Does what a block says; what it printed, if that is the same every time."""
    if block.title.endswith((".yaml", ".py")):
        Path(block.title).write_text(block.text, "utf-8")
    elif block.kind == "sh":
        for line in block.text.splitlines():
            program, *words = shlex.split(line, comments=True)
            assert program == "optmerge"
            assert run(words) == 0, (line, capsys.readouterr().err)
    elif block.kind == "python":
        with contextlib.redirect_stdout(io.StringIO()) as said:
            exec(compile(block.text, "page", "exec"), {"__name__": "page"})
        return said.getvalue()
    return None


FAMILIES = [
    (family, block)
    for block in blocks(ROOT / "docs/how-to/recipes-by-model-family.md")
    for family in block.title.split()
]


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("family", "block"),
    samples.sample(FAMILIES, 1),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_familys_recipe_merges_the_components_it_selects(family: str, block: Block, tmp_path: Path) -> None:
    import optmerge
    from worlds.models import build

    model = build(family)
    folders = [tmp_path / each for each in ("base", "e0", "e1")]
    for folder in folders:
        model.save_pretrained(folder)
    base, *experts = map(str, folders)
    data = yaml.safe_load(block.text)
    kept = [{**each, "model": path} if isinstance(each, dict) else path
            for each, path in zip(data["experts"], experts, strict=True)]  # fmt: skip
    plan = optmerge.plan({**data, "base": base, "experts": kept})
    merged = {tensor.component for tensor in plan.tensors if tensor.action == "merge"}
    assert merged == set(plan.recipe.select.components or ()), os.fspath(tmp_path)
