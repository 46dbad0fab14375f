"""Merging methods: one pure function on task vectors per file."""

from optmerge.methods.registry import Context, Method, Survey, get, merge_deltas, method, registered

__all__ = ["Context", "Method", "Survey", "get", "merge_deltas", "method", "registered"]
