"""`python -m optmerge.cli`."""

from optmerge.cli import main

main()
