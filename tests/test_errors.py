"""Every refusal that the code can raise says where, and what to do or what was expected."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import optmerge
from optmerge import errors

SOURCE = Path(optmerge.__file__).parent
FILES = [
    file for room in ("engine", "checkpoints", "recipe") for file in sorted((SOURCE / room).rglob("*.py"))
]

KINDS = {
    name
    for name, each in vars(errors).items()
    if isinstance(each, type) and issubclass(each, errors.InputError)
} | {"error"}  # what readers that serve several kinds of file call the class they are given

PLACED_BY_CALLER = {
    "engine/planning/request.py": {"has no scale", "has no rule for its scale"},
    "checkpoints/adapter_writer.py": {"the merged adapter would be empty"},
}
"""Errors that are given their place by who catches them, or that are about the output as a whole."""

NOTHING_TO_ADD = {
    "checkpoints/adapter_tensors.py": {"is both replaced and adapted", "its parts don't belong together"},
    "checkpoints/adapters.py": {"the base's shape changed"},
}
"""Errors without a next step: the file makes no sense, and nobody knows what was meant."""


def refusals(file: Path) -> Iterator[tuple[ast.Call, set[str], str]]:
    """Calls of the errors' classes in a file, their keywords, and their source."""
    text = file.read_text("utf-8")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in KINDS:
            yield node, {each.arg or "**" for each in node.keywords}, ast.get_source_segment(text, node) or ""


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_every_refusal_has_a_place_and_a_way_on(file: Path) -> None:
    room = file.relative_to(SOURCE).as_posix()
    for node, given, source in refusals(file):
        what = f"{room}:{node.lineno}: {source}"
        if not any(known in source for known in PLACED_BY_CALLER.get(room, ())):
            assert "where" in given, what
        if not any(known in source for known in NOTHING_TO_ADD.get(room, ())):
            assert given & {"hint", "expected"}, what


def test_refusals_are_found_at_all() -> None:
    assert sum(1 for file in FILES for _ in refusals(file)) > 100
