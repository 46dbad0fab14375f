"""Writes docs/reference/methods/*.md from the docstrings and signatures of methods and modifiers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from optmerge.cli.methods import describe, describe_modifier
from optmerge.methods import MODIFIERS, RULE_WORDS, registered

FOLDER = Path(__file__).parent / "reference" / "methods"


def page(name: str) -> str:
    """One method's page."""
    method = registered()[name]
    plain = describe(method)
    scale = "1, fixed" if plain["fixed_scale"] else plain["default_scale"]
    if plain["auto"] not in (None, "own"):
        scale += f" ({RULE_WORDS[plain['auto']]}); published: {plain['scale']:g}"
    return _page(plain, f"Default scale: {scale}.")


def modifier_page(name: str) -> str:
    """One modifier's page."""
    plain = describe_modifier(MODIFIERS.get(name))
    rule = plain["auto"]
    scale = f"auto ({RULE_WORDS[rule]})" if rule else "the method's"
    words = f"Goes around a method: `method: swudi+{name}`, or `with` where it has parameters."
    return _page(plain, f"{words} Default scale: {scale}.")


def _page(plain: dict[str, Any], words: str) -> str:
    rows = [f"| `{key}` | `{each['default']}` |" for key, each in plain["parameters"].items()]
    table = ["| parameter | default |", "|---|---|", *rows, ""] if rows else []
    return "\n".join([f"# {plain['name']}", "", words, "", *table, "```text", plain["doc"], "```", ""])


def index() -> str:
    """The list of all methods and modifiers."""
    rows = [f"| [{name}]({name}.md) | {method.summary} |" for name, method in registered().items()]
    around = [f"| [{name}]({name}.md) | {modifier.summary} |" for name, modifier in MODIFIERS.all().items()]
    words = "They go around a method: [modify a method](../../how-to/modify-a-method.md)."
    methods = ["# Methods", "", "| method | what it does |", "|---|---|", *rows, ""]
    modifiers = ["## Modifiers", "", words, "", "| modifier | what it does |", "|---|---|", *around, ""]
    return "\n".join([*methods, *modifiers])


def pages() -> dict[Path, str]:
    """Every page by path."""
    methods = {FOLDER / f"{name}.md": page(name) for name in registered()}
    modifiers = {FOLDER / f"{name}.md": modifier_page(name) for name in MODIFIERS.all()}
    return {FOLDER / "README.md": index(), **methods, **modifiers}


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path, text in pages().items():
        path.write_text(text, "utf-8")
