"""Checkpoints and adapters on disk: found, checked, read and written."""

from optmerge._system import require_posix

require_posix()  # before some module is missing, or some call fails half-way
