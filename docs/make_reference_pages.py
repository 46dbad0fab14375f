"""Writes commands.md, recipe.md and python.md of docs/reference from the command line, schema, docstrings."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import typer

from optmerge.cli import app
from optmerge.recipe.schema import (
    Expert,
    Match,
    MethodChoice,
    ModifierChoice,
    Output,
    Recipe,
    Rule,
    Select,
    SideFiles,
    Vocabulary,
)

FOLDER = Path(__file__).parent / "reference"

MODULES = ("optmerge", "optmerge.evaluate", "optmerge.methods", "optmerge.deltas", "optmerge.omni")
"""Packages whose public names are documented."""


def commands() -> str:
    """Every command with its arguments and options."""
    head = (
        "# Commands\n\nMade from the command line itself; `optmerge COMMAND --help` prints the same. "
        "[Exit codes](exit-codes.md) are the same for all.\n"
    )
    return "\n".join(
        [head, *(_command(name, each) for name, each in _leaves("optmerge", typer.main.get_command(app)))]
    )


def _leaves(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    for key, each in getattr(command, "commands", {}).items():
        yield from _leaves(f"{name} {key}", each)
    if not hasattr(command, "commands"):
        yield name, command


def _command(name: str, command: Any) -> str:
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option" and not each.hidden]
    usage = " ".join([name, *("[OPTIONS]" for _ in options[:1]), *map(_usage, arguments)])
    about = re.sub(r"^Example: ", "Example:\n\n", inspect.cleandoc(command.help), flags=re.MULTILINE)
    rows = [(f"`{_usage(each)}`", _says(each)) for each in arguments]
    rows += [(f"`{_spelt(each)}`", _says(each)) for each in options]
    table = ["| | |", "|---|---|", *(f"| {left} | {right} |" for left, right in rows), ""] if rows else []
    return "\n".join([f"## {name}", "", f"    {usage}", "", about, "", *table])


def _usage(argument: Any) -> str:
    name = argument.metavar or argument.name.upper()
    many = "…" if argument.nargs == -1 else ""
    return f"{name}{many}" if argument.required else f"[{name}{many}]"


def _spelt(option: Any) -> str:
    words = ", ".join([*option.opts, *option.secondary_opts])
    if option.is_flag:
        return words
    kind = re.sub(r"\W+", "", str(option.metavar or option.type_descriptor.annotation.__name__)).upper()
    return f"{words} {option.metavar or {'STR': 'TEXT', 'INT': 'N'}.get(kind, kind)}"


def _says(parameter: Any) -> str:
    words = _cell(parameter.help or "")
    if parameter.required:
        return f"{words} Required.".strip()
    shown = parameter.default not in (None, False, True, [], ()) and not callable(parameter.default)
    return f"{words} Default: `{parameter.default}`." if shown else words


def _cell(text: str) -> str:
    """Text in a cell of a table."""
    return re.sub(r"\s+", " ", text).strip().replace("|", "\\|").replace("<", "&lt;")


def recipe() -> str:
    """Every key of a recipe, from the pydantic models."""
    head = (
        "# Recipe\n\nA YAML file, or a dictionary in Python. Made from the schema that checks recipes: "
        "an unknown key is refused.\n\n```yaml\nbase: base\nexperts: [ocr, {model: chart, weight: 0.8}]\n"
        "method: {name: tsv, scale: 1}\n```\n"
    )
    places = {
        Recipe: "The recipe",
        Expert: "An expert",
        MethodChoice: "A method",
        ModifierChoice: "A modifier",
        Match: "Tensors that match",
        Select: "Tensors that are merged",
        Rule: "A rule",
        SideFiles: "Side files",
        Output: "The output",
        Vocabulary: "The vocabulary",
    }
    short = {
        Expert: "Short form: the model alone, as text.",
        MethodChoice: "Short form: the name alone. Parameters: [methods](methods/README.md).",
        ModifierChoice: "Short form: the name alone ([modifiers](../how-to/modify-a-method.md)).",
        SideFiles: "Short form: the donor alone.",
        Output: "Short form: the format alone.",
        Vocabulary: "Short form: `tokens` alone.",
    }
    titles = {model.__name__: title for model, title in places.items()}
    parts = [_model(model, title, titles, short.get(model)) for model, title in places.items()]
    return "\n".join([head, *parts])


def _model(model: Any, title: str, titles: Mapping[str, str], short: str | None) -> str:
    schema = model.model_json_schema(by_alias=True)
    said = sections(_doc(model))
    notes = dict(_arguments(said.get("Args", "") or sections(_doc(Match)).get("Args", "")))
    names = {field.alias or name: name for name, field in model.model_fields.items()}
    rows = [
        f"| `{key}` | {_cell(_type(each, titles))} | {_default(each, key in schema.get('required', ()))} | "
        f"{_cell(notes.get(names[key], ''))} |"
        for key, each in schema["properties"].items()
    ]
    table = ["| key | value | default | |", "|---|---|---|---|", *rows, ""]
    return "\n".join([f"## {title}", "", said[""], "", *([short, ""] if short else []), *table])


def _type(schema: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    """A JSON schema in words."""
    if "$ref" in schema:
        title = titles[schema["$ref"].rpartition("/")[2]]
        return f"[{title.lower()}](#{title.lower().replace(' ', '-')})"
    if "anyOf" in schema:
        return " or ".join(
            dict.fromkeys(_type(each, titles) for each in schema["anyOf"] if each.get("type") != "null")
        )
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{each}`" for each in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'], titles)}"
    words = {"string": "text", "number": "number", "integer": "whole number", "boolean": "true or false"}
    return words[schema["type"]]


def _default(schema: Mapping[str, Any], required: bool) -> str:
    if required:
        return "required"
    default = schema.get("default")
    if isinstance(default, Mapping):
        default = next((default[key] for key in ("name", "format", "tokens", "from") if key in default), None)
    if "$ref" in schema and default is None:
        return "its own"
    if default is None or default == []:
        return "none"
    plain = str(default).lower() if isinstance(default, bool) else default
    return f"`[{', '.join(plain)}]`" if isinstance(plain, list) else f"`{plain}`"


def python() -> str:
    """The public names of the packages that are meant to be used."""
    head = "# Python\n\nMade from the docstrings. A name is imported from the package above it.\n"
    return "\n".join([head, *(_module(importlib.import_module(name)) for name in MODULES)])


def _module(module: Any) -> str:
    names = sorted(getattr(module, "__all__", ()), key=str.lower)
    about = sections(inspect.getdoc(module) or "")[""].partition("\n\n")[0]
    parts = [_member(name, getattr(module, name)) for name in names]
    return "\n".join([f"## {module.__name__}", "", about, "", *(each for each in parts if each)])


def _member(name: str, value: Any) -> str:
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return ""
    title = [f"### {name}", "", f"```python\n{_signature(name, value)}\n```", "", rendered(_doc(value))]
    if not inspect.isclass(value) or issubclass(value, BaseException):
        return "\n".join(title)
    methods = [
        f"* `{key}{_plain_signature(each)}`: {_first_line(each)}"
        for key, each in vars(value).items()
        if inspect.isfunction(each) and not key.startswith("_") and inspect.getdoc(each)
    ]
    properties = [
        f"* `{key}`: {_first_line(each)}"
        for key, each in vars(value).items()
        if isinstance(each, property) and not key.startswith("_") and each.__doc__
    ]
    return "\n".join([*title, *methods, *properties, ""])


def _signature(name: str, value: Any) -> str:
    if inspect.isclass(value) and not ("__init__" in vars(value) or hasattr(value, "__dataclass_fields__")):
        return f"class {name}"
    plain = _plain_signature(value)
    if len(name + plain) <= 100:
        return f"{name}{plain}"
    parameters = inspect.signature(value).parameters.values()
    star = [each for each in parameters if each.kind is each.KEYWORD_ONLY][:1]
    lines = [
        line
        for each in parameters
        for line in (["    *,"] if each in star else []) + [f"    {_parameter(each)},"]
    ]
    return "\n".join([f"{name}(", *lines, f"){plain.rpartition(')')[2]}"])


def _plain_signature(value: Callable[..., Any]) -> str:
    signature = inspect.signature(value)
    kept = [each.replace(default=_Shown(each.default)) if each.default is not each.empty else each
            for each in signature.parameters.values()]  # fmt: skip
    return _clean(str(signature.replace(parameters=kept)))


def _parameter(parameter: inspect.Parameter) -> str:
    if parameter.default is not parameter.empty:
        parameter = parameter.replace(default=_Shown(parameter.default))
    return _clean(str(parameter))


class _Shown:
    """A default as it is written, or `…` where that says nothing."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __repr__(self) -> str:
        plain = repr(self._value)
        return plain if len(plain) <= 20 and "<" not in plain and " at 0x" not in plain else "…"


def _clean(text: str) -> str:
    return re.sub(r"\b(?:[a-z_]+\.)+(?=[A-Z])", "", text).replace("'", "")


def _doc(value: Any) -> str:
    own = value.__doc__ if inspect.isclass(value) else inspect.getdoc(value)
    return inspect.cleandoc(own or "")


def _first_line(value: Any) -> str:
    return re.sub(r"\s+", " ", (inspect.getdoc(value) or "").partition("\n\n")[0])


def sections(doc: str) -> dict[str, str]:
    """Parts of a docstring by their headings; what stands before the first is under the empty name."""
    found, name = {"": ""}, ""
    for line in doc.splitlines():
        heading = re.fullmatch(r"(Args|Returns|Raises|Yields|Source|References|Example):\s*(.*)", line)
        if heading:
            name = heading[1]
            found[name] = heading[2] + "\n" if heading[2] else ""
        else:
            found[name] += line + "\n"
    return {name: inspect.cleandoc("\n" + text) for name, text in found.items()}


def _arguments(text: str) -> Iterator[tuple[str, str]]:
    for match in re.finditer(r"^(\*{0,2}\w+): ((?:.*)(?:\n(?: +.*|))*)", text, re.MULTILINE):
        yield match[1], re.sub(r"\s+", " ", match[2]).strip()


def rendered(doc: str) -> str:
    """A docstring as Markdown."""
    parts = []
    for name, text in sections(doc).items():
        if name in ("Args", "Raises"):
            listed = [f"* `{key}`: {words}" for key, words in _arguments(text)]
            parts.append("\n".join([f"**{'Arguments' if name == 'Args' else name}**", "", *listed]))
        elif name:
            parts.append(f"**{name}** {text}")
        else:
            parts.append(text)
    return "\n\n".join(part for part in parts if part) + "\n"


def pages() -> dict[Path, str]:
    """Every page by path."""
    made = {"commands": commands, "recipe": recipe, "python": python}
    return {FOLDER / f"{name}.md": make().rstrip() + "\n" for name, make in made.items()}


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, "utf-8")
