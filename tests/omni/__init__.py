"""Tests of `optmerge.omni`."""
