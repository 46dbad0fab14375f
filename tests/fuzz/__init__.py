"""Coverage-guided fuzzing of what reads other people's files: `make fuzz`, or `python -m fuzz NAME`."""
