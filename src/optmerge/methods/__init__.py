"""Merging methods: one pure function on task vectors per file."""

from optmerge.methods._context import Context, Survey
from optmerge.methods._merging import merge_deltas
from optmerge.methods._registry import Method, get, method, registered

__all__ = ["Context", "Method", "Survey", "get", "merge_deltas", "method", "registered"]
