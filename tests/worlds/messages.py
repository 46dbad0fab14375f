"""What every refusal keeps to, whoever raises it."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection

BLAMES_THE_BASE = re.compile(r"\b(use|give|try|choose) (the|another|that) base\b")
"""A next step that sends the user for another base, though experts are what doesn't fit."""


def broken_laws(message: str, names: Collection[str]) -> list[str]:
    """What is wrong with a refusal.

    Args:
        message: as it is printed, a part a line.
        names: of the tensors of the model that it is about.

    Returns:
        A sentence for each law that is broken: there is a next step, or what was expected; `ignore` is
        offered for no more than half of a model; the base that was given isn't named as the fault.
    """
    parts = dict(re.findall(r"^  (where|got|expected|next): (.*)$", message, re.MULTILINE))
    found = [] if {"expected", "next"} & parts.keys() else ["nothing says what to do"]
    step = parts.get("next", "")
    if step.endswith("."):
        found.append("the next step ends in a full stop")
    if BLAMES_THE_BASE.search(step):
        found.append("the base is named as the fault")
    for offered in re.findall(r"ignore: (\[.*?\])(?=;|,|$)", step):
        patterns = ast.literal_eval(re.sub(r"'((?:[^'])*)'", r"r'\1'", offered))
        lost = [name for name in names if any(re.search(pattern, name) for pattern in patterns)]
        if 2 * len(lost) > len(names):
            found.append(f"{len(lost)} of {len(names)} tensors would be ignored")
    return found
