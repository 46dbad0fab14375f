"""Shared by the commands of `optmerge omni`: options, and the check for optional libraries."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from optmerge.errors import InputError

OUT = Path("out/omni-run")
"""Where `omni run` writes unless --out says otherwise."""
Questions = Annotated[int | None, typer.Option("--n", help="Questions with the same needs.", min=1)]


def check_installed() -> None:
    """Refuses what can't work without the optional libraries.

    Raises:
        InputError: one isn't installed.
    """
    missing = [name for name in ("transformers", "PIL", "av") if find_spec(name) is None]
    if missing:
        raise InputError(f"{missing[0]} isn't installed", hint="pip install 'optmerge[omni]'")
