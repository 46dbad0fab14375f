"""Writes docs/reference/methods/*.md from the docstrings and signatures of the registered methods."""

from __future__ import annotations

import inspect
from pathlib import Path

from optmerge.cli.methods import describe
from optmerge.methods import RULE_WORDS, registered

FOLDER = Path(__file__).parent / "reference" / "methods"


def page(name: str) -> str:
    """One method's page."""
    method = registered()[name]
    plain = describe(method)
    scale = "1, fixed" if plain["fixed_scale"] else plain["default_scale"]
    if plain["auto"] not in (None, "own"):
        scale += f" ({RULE_WORDS[plain['auto']]}); published: {plain['scale']:g}"
    rows = [f"| `{key}` | `{each['default']}` |" for key, each in plain["parameters"].items()]
    table = ["| parameter | default |", "|---|---|", *rows, ""] if rows else []
    doc = inspect.getdoc(method.function) or ""
    return "\n".join([f"# {name}", "", f"Default scale: {scale}.", "", *table, "```text", doc, "```", ""])


def index() -> str:
    """The list of all methods."""
    rows = [f"| [{name}]({name}.md) | {method.summary} |" for name, method in registered().items()]
    return "\n".join(["# Methods", "", "| method | what it does |", "|---|---|", *rows, ""])


def pages() -> dict[Path, str]:
    """Every page by path."""
    return {FOLDER / "README.md": index(), **{FOLDER / f"{name}.md": page(name) for name in registered()}}


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path, text in pages().items():
        path.write_text(text, "utf-8")
