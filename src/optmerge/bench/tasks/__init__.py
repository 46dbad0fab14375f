"""The tasks of the benchmark: capabilities, and the questions that measure them.

A task is one file: `drawn/NAME.py` declares `TASK = DrawnTask(…)`, `real/NAME.py` declares
`TASK = DataSet(…)`. A package of one's own names a module with such a constant in an entry point of the group
`optmerge.tasks`.
`drawn/__init__.py` and `real/__init__.py` say what tests ask of either kind.
"""

from optmerge.bench.tasks._task import LAST, SPLITS, Split, Task, get, registered
from optmerge.bench.tasks.drawn._scene import SIDE, DrawnTask, Scene, drawn, held_apart
from optmerge.bench.tasks.real._data_set import DataSet

__all__ = [
    "LAST",
    "SIDE",
    "SPLITS",
    "DataSet",
    "DrawnTask",
    "Scene",
    "Split",
    "Task",
    "drawn",
    "get",
    "held_apart",
    "registered",
]
