"""Fenced blocks of pages, and what is asked of each."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])

UNTOLD = re.compile(r"…|\.\.\.|\[|\{|\$|\bPART\b|COMMAND")
"""What stands in a command for something that isn't written out."""


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Args:
        kind: its language. On a page that is run, `sh` and `python` are run; `text` is what Python prints.
        title: file that the block is, if it is one.
        text: what stands in it.
    """

    kind: str
    title: str
    text: str


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    fences = re.finditer(
        r'^```(\w*)(?: title="([^"]*)")?\n(.*?)^```$', page.read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    return [Block(fence[1], fence[2] or "", fence[3]) for fence in fences]


def commands(page: Path) -> Iterator[tuple[list[str], bool]]:
    """Every command of a page as words after `optmerge`, and whether it stands on a line of its own."""
    text = page.read_text("utf-8").replace("\\\n", " ")
    own = [block.text for block in blocks(page) if block.kind in ("", "sh")]
    lines = [line for each in own for line in each.splitlines()]
    lines += re.findall(r"^    (optmerge .*)$", text, re.MULTILINE) if "reference" not in page.parts else []
    inline = re.findall(r"(?<!`)`(optmerge [^`\n]+)`(?!`)", text)
    for line, whole in [*((line, True) for line in lines), *((line, False) for line in inline)]:
        words = line.strip().partition(" #")[0]
        if words.startswith("optmerge ") and not UNTOLD.search(re.sub(r"--set\s+\S+", "", words)):
            yield shlex.split(words)[1:], whole


def is_run(page: Path) -> bool:
    """Whether a page's blocks are run, in order: it has one of shell, or says what Python prints."""
    kinds = {block.kind for block in blocks(page)}
    return "sh" in kinds or {"python", "text"} <= kinds
