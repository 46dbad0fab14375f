"""Checkpoints and adapters on disk: found, checked, read and written."""
