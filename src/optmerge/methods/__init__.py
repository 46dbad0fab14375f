"""Merging methods: one pure function on task vectors per file."""

from optmerge.methods.context import Context, Survey
from optmerge.methods.merging import merge_deltas
from optmerge.methods.registry import Method, get, method, registered

__all__ = ["Context", "Method", "Survey", "get", "merge_deltas", "method", "registered"]
