"""The code that a model carries, so that transformers loads the model where OptMerge isn't installed.

The carried files are this package's own: the modules of configuration, model and processor, the kinds of the
model's towers, and whatever these import. Four things differ. Imports of `optmerge` are relative. Nothing
registers with transformers' Auto classes, which find the classes by `auto_map`. The registry of kinds of
towers is a list of the model's own. `carry_code` does nothing, since transformers copies code that came with
a model. Carried code is never run here.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optmerge.checkpoints.output_files import disk_errors
from optmerge.omni.towers import tower_module

if TYPE_CHECKING:
    from optmerge.omni.config import TowerConfig

_PACKAGE, _TOWERS, _HERE = "optmerge.omni", "optmerge.omni.towers", "optmerge.omni.carried_code"
_IMPORT = re.compile(r"^( *)from (optmerge[\w.]*) import\b", re.MULTILINE)

_MODEL, _PROCESSOR = "optmerge_omni.OmniForConditionalGeneration", "optmerge_omni.OmniProcessor"
AUTO_MAP = {
    "AutoConfig": "optmerge_omni.OmniConfig",
    "AutoModel": _MODEL,
    "AutoModelForImageTextToText": _MODEL,
    "AutoModelForMultimodalLM": _MODEL,
    "AutoProcessor": _PROCESSOR,
}
"""`auto_map` of configurations. It names one module, since transformers loads each that it names apart."""

_ENTRY = '''"""The classes of an omni model, where transformers looks for them."""

from optmerge.omni.config import OmniConfig
from optmerge.omni.model import OmniForConditionalGeneration
from optmerge.omni.processor import OmniProcessor

for _class in (OmniConfig, OmniForConditionalGeneration, OmniProcessor):
    _class.__module__ = __name__  # transformers saves a class's module and what it imports
'''

_KINDS = '''"""The kinds of this model's towers."""

from optmerge.errors import InputError
{imports}

_KINDS = {{kind.name: kind for kind in ({names},)}}


def tower_kind(name):
    """The kind of that name."""
    if name not in _KINDS:
        raise InputError("the model carries no such kind of tower", got=name, expected=", ".join(_KINDS))
    return _KINDS[name]
'''


_CARRY = '''"""Saving a model whose code transformers copies."""


def carry_code(saved, folder):
    """Does nothing."""
'''


def carried_code(towers: Mapping[str, TowerConfig]) -> dict[str, str]:
    """The code of a model with these towers: file name → text, in alphabetical order.

    Args:
        towers: modality → tower.

    Returns:
        Nothing where the kind of a tower comes from another package, whose code isn't OptMerge's to copy.

    Raises:
        InputError: a tower's kind is unknown, or a plug-in can't be loaded.
    """
    kinds = {kind: tower_module(kind) for kind in sorted({tower.kind for tower in towers.values()})}
    if not kinds or not all(module.startswith(f"{_TOWERS}.") for module in kinds.values()):
        return {}
    imports = "\n".join(f"from {module} import KIND as {kind}" for kind, module in kinds.items())
    kinds_text = _KINDS.format(imports=imports, names=", ".join(kinds))
    texts = {_PACKAGE: _ENTRY, _TOWERS: kinds_text, _HERE: _CARRY}
    found: dict[str, str] = {}
    waiting = [_PACKAGE]
    while waiting:
        module = waiting.pop()
        if module not in found:
            found[module] = texts.get(module) or _source(module)
            waiting += [imported for _, imported in _IMPORT.findall(found[module])]
    return {f"{_flat(module)}.py": _carried(module, found[module]) for module in sorted(found)}


def carry_code(saved: Any, folder: str | os.PathLike[str]) -> None:
    """Writes a model's code into a folder, and sets the `auto_map` of what is about to be saved there.

    Args:
        saved: an `OmniConfig` or an `OmniProcessor`; it has no `auto_map` where no code can be carried.
        folder: made if it isn't there.

    Raises:
        RunError: the disk is full or failed.
        OutputError: the folder can't be written to.
    """
    code, folder = carried_code(saved.towers), Path(folder)
    vars(saved).pop("auto_map", None)
    if code:
        saved.auto_map = dict(AUTO_MAP)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in code.items():
            (folder / name).write_text(text, "utf-8")


def code_record(code: Mapping[str, str]) -> dict[str, Any]:
    """What provenance says of a model's code.

    Args:
        code: file name → text.
    """
    return {"optmerge": version("optmerge"), "files": list(code), "sha256": code_hash(code)}


def code_hash(code: Mapping[str, str]) -> str:
    """SHA-256 of names and texts, in the order of the names."""
    pairs = [[name, code[name]] for name in sorted(code)]
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


def _flat(module: str) -> str:
    return module.replace(".", "_")


def _source(module: str) -> str:
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).read_text("utf-8")


def _carried(module: str, source: str) -> str:
    """A module as it is carried; its lines but for imports and registrations are the package's."""
    lines = source.splitlines()
    for statement in reversed(ast.parse(source).body):
        if _registers(statement):
            del lines[statement.lineno - 1 : statement.end_lineno]
    text = "\n".join(lines).rstrip()
    text = _IMPORT.sub(lambda found: f"{found[1]}from .{_flat(found[2])} import", text)
    return f"# {module} of OptMerge {version('optmerge')}, Apache-2.0.\n{text}\n"


def _registers(statement: ast.stmt) -> bool:
    """Whether a statement makes a class known to transformers' Auto classes."""
    inner = statement.body[0] if isinstance(statement, ast.For) else statement
    call = inner.value if isinstance(inner, ast.Expr) else None
    return (
        isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "register"
    )
