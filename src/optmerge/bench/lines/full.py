"""The full line: a tiny InternVL, whose experts are trained in all layers of the language model."""

from __future__ import annotations

from functools import partial

from optmerge.bench.lines._line import Line
from optmerge.bench.lines._zoo import expert_sets, members
from optmerge.bench.lines.tiny.asking import load

LINE = Line(
    name="full",
    sets=partial(expert_sets, "full"),
    members=partial(members, "full"),
    load=partial(load, "full"),
)
