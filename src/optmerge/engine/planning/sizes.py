"""Sizes as people write them."""

from __future__ import annotations

import re

from optmerge.errors import RecipeError

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UNITS |= {"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}


def parse_bytes(text: str | int, where: str) -> int:
    """A number of bytes from `5GB`, `2GiB`, `500MB` or a plain number.

    Raises:
        RecipeError: not a positive size.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", str(text).lower())
    unit = _UNITS.get(found[2]) if found else None
    size = float(found[1]) * unit if found and unit else 0.0
    if not 1 <= size < 2**63:
        raise RecipeError("not a size in bytes", where=where, got=text, expected="such as 2GiB or 500MB")
    return int(size)
