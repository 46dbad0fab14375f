"""The benchmark's lines of models: a base, experts of it, and how they are loaded and asked.

A line is one file, `bench/lines/NAME.py`, which declares `LINE = Line(…)`. A package of one's own names a
module with such a constant in an entry point of the group `optmerge.lines`. `tiny/` makes, loads and asks the
models of the two lines that are trained here.
"""

from optmerge.bench.lines._line import Answers, Line, LineModel, Members, get, registered, weights
from optmerge.bench.lines._zoo import default_zoo, expert_sets, held, members

__all__ = [
    "Answers",
    "Line",
    "LineModel",
    "Members",
    "default_zoo",
    "expert_sets",
    "get",
    "held",
    "members",
    "registered",
    "weights",
]
