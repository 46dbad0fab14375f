"""The lora line: a tiny Qwen2-VL, whose experts are adapters on the language model."""

from __future__ import annotations

from functools import partial

from optmerge.bench.lines._line import Line
from optmerge.bench.lines._zoo import expert_sets, members
from optmerge.bench.lines.tiny.asking import load

LINE = Line(
    name="lora",
    sets=partial(expert_sets, "lora"),
    members=partial(members, "lora"),
    load=partial(load, "lora"),
)
