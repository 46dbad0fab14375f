"""The tasks of the benchmark: data, splits and scorer of each in one file."""
