"""Fuzzes one target: `python -m fuzz NAME --seconds 60`; what breaks it is left in OUT/NAME."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["optmerge", "yaml"]):
    from fuzz.targets import TARGETS

HERE = Path(__file__).parent
MOST_BYTES, MOST_MEGABYTES = 1 << 13, 2048
"""Of one input; more is a finding."""

HUNG_SECONDS = 300
"""A machine may stand still for a while; what takes the processor's time is for the target to say."""


def main() -> None:
    """Seeds are read from corpus/NAME and corpus/found/NAME; new inputs go to OUT/NAME/corpus."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=main.__doc__)
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/fuzz"))
    chosen = parser.parse_args()
    out = chosen.out / chosen.target
    (out / "corpus").mkdir(parents=True, exist_ok=True)
    words = HERE / "words" / ("yaml.dict" if chosen.target in ("recipe", "setting", "card") else "json.dict")
    arguments = [
        sys.argv[0],
        f"-max_total_time={chosen.seconds}",
        f"-seed={chosen.seed}",
        f"-max_len={MOST_BYTES}",
        f"-timeout={HUNG_SECONDS}",
        f"-rss_limit_mb={MOST_MEGABYTES}",
        f"-artifact_prefix={out}/",
        f"-dict={words}",
        "-print_final_stats=1",
        str(out / "corpus"),
        str(HERE / "corpus" / chosen.target),
    ]
    atheris.Setup(arguments, TARGETS[chosen.target])
    atheris.Fuzz()


main()
