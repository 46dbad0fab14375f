"""How far a merge is, in a notebook: a bar that nobody has to ask for."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from optmerge.engine.plan import Plan, Progress, TensorPlan


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook, which shows what cells print."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"


@contextmanager
def bar(plan: Plan) -> Iterator[Progress]:
    """A `Watch` that draws a bar of text: bytes written, of all that will be.

    Widgets would need an extension of the notebook's server; text needs nothing.
    """
    from tqdm.std import tqdm

    with tqdm(total=plan.cost.bytes_written, unit="B", unit_scale=True, desc="merging", ncols=80) as shown:

        def advance(tensor: TensorPlan, size: int) -> None:
            shown.update(size)

        yield advance
