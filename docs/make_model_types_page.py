"""Writes docs/reference/model-types.md from the record of the conformance tests over model types."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "tests/conformance/types/record.json"
PAGE = ROOT / "docs/reference/model-types.md"

WAYS = {"declared": "declared", "class": "read from the class", "names": "judged by names"}
ABOUT = """# Model types

What the tests find for every model type of transformers' image-text-to-text mapping, for types that hear
or speak, for pairs of encoders, and for language models in wide use. Each is a tiny random model of the
type's own class.

* **way**: where roles come from. A family is declared in `src/optmerge/architectures/`, or read from the
  class that transformers has for the config, or judged by the names of the tensors.
* **default set**: whether the tensors that are merged if a recipe says nothing are the
  language model's matrices.
* **components**: whether every tensor's component is right.
* **adapter**: whether a PEFT adapter of the language model's linear layers, merged by OptMerge, gives what
  PEFT's own merge gives.

`tests/conformance/types/` holds the tests, the truth they compare with, and the record of which this page
is made.
"""


def page() -> str:
    """The page."""
    record = json.loads(RECORD.read_text("utf-8"))
    rows = [_row(name, found) for name, found in sorted(record.items())]
    built = [found for found in record.values() if "unbuildable" not in found]
    right = {part: sum(part not in found for found in built) for part in ("default", "components", "adapter")}
    totals = (
        f"Of {len(built)} types, {right['default']} have the right default set, {right['components']} have "
        f"every component right, and {right['adapter']} take an adapter as PEFT does."
    )
    table = ["| type | way | default set | components | adapter |", "|---|---|---|---|---|", *rows]
    return "\n".join([ABOUT, totals, "", *table, ""])


def _row(name: str, found: dict[str, str]) -> str:
    if "unbuildable" in found:
        return f"| `{name}` | not tried: {found['unbuildable']} | | | |"
    parts = (_cell(found.get(part)) for part in ("default", "components", "adapter"))
    return f"| `{name}` | {WAYS[found['way']]} | {' | '.join(parts)} |"


def _cell(wrong: str | None) -> str:
    if wrong is None:
        return "right"
    return wrong.replace("|", " or ").replace("_", r"\_").replace("*", r"\*").replace("<", "&lt;")


def pages() -> dict[Path, str]:
    """Every page by path."""
    return {PAGE: page()}


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, "utf-8")
