"""Merging methods: one pure function on task vectors per file.

Every file at this level whose name has no underscore is an algorithm, and nothing else is at this level but
their frame:

* `_method.py` says what a `Method` is, `_registry.py` makes one known (`@method`) and finds it (`get`);
* `_apply.py` applies a method to deltas (`merge_deltas`) and to the matrices that a tensor holds;
* `_modifier.py` says what a modifier of methods is; `modifiers/` holds them, one a file;
* `_scales.py` chooses scales from deltas;
* `_context.py` and `_parameters.py` hold what methods are given besides deltas.

`_solvers/` holds the mathematics that several algorithms share. `_fast/` holds what exists for speed alone;
its README names the plain code that each of its files must agree with.
"""

from optmerge.methods._apply import apply, get, merge_deltas
from optmerge.methods._context import Context, Layout, Survey
from optmerge.methods._method import Case, Method, Parameters, Resources, Streaming
from optmerge.methods._modifier import MODIFIERS, Merge, ModifiedMethod, ModifierUse, modifier, modifier_use
from optmerge.methods._registry import method, registered
from optmerge.methods._scales import RULE_WORDS, AutoRule

__all__ = [
    "MODIFIERS",
    "RULE_WORDS",
    "AutoRule",
    "Case",
    "Context",
    "Layout",
    "Merge",
    "Method",
    "ModifiedMethod",
    "ModifierUse",
    "Parameters",
    "Resources",
    "Streaming",
    "Survey",
    "apply",
    "get",
    "merge_deltas",
    "method",
    "modifier",
    "modifier_use",
    "registered",
]
