"""`python -m conformance.types [TYPE…]`: tries model types again and writes what came of them to record.json.

With `--totals`, only prints the totals of the record, as Markdown and JSON.
"""

from __future__ import annotations

import json
import sys

from conformance.types import record


def main(names: list[str]) -> None:
    """Tries types, all of them by default."""
    if names != ["--totals"]:
        for name, row in record.tried(names):
            print(f"{name}: {json.dumps(row)}", file=sys.stderr, flush=True)
    totals = record.totals(record.read())
    print(record.markdown(totals))
    print(json.dumps(totals))


if __name__ == "__main__":
    main(sys.argv[1:])
