"""OptMerge: merge experts fine-tuned from one base into a single multimodal model.

import optmerge

optmerge.plan({"base": "base", "experts": ["ocr", "chart"], "method": "optmerge"})
optmerge.merge({"base": "base", "experts": ["ocr", "chart"], "method": "optmerge"}, "merged")
optmerge.merge_deltas("ties", deltas, keep=0.2)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optmerge.engine.plan import Plan
    from optmerge.engine.run import Result, merge, plan
    from optmerge.engine.verify import verify
    from optmerge.methods import merge_deltas
    from optmerge.recipe import Recipe, load_recipe

__all__ = ["Plan", "Recipe", "Result", "load_recipe", "merge", "merge_deltas", "plan", "verify"]

_HOMES = {
    "Plan": "optmerge.engine.plan",
    "Recipe": "optmerge.recipe",
    "Result": "optmerge.engine.run",
    "load_recipe": "optmerge.recipe",
    "merge": "optmerge.engine.run",
    "merge_deltas": "optmerge.methods",
    "plan": "optmerge.engine.run",
    "verify": "optmerge.engine.verify",
}


def __getattr__(name: str) -> Any:
    """Loads a public name when it is first asked for, so that `import optmerge` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'optmerge' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
