"""`python -m perf.peer`: mergekit and this project on the same files in the same session, in turn.

mergekit lives in an environment of its own: out/peer-venv (see README.md here).
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from perf import measure, synthetic
from perf.run import FULL_EXPERTS, ROOT, machine, record

PEER = Path("out/peer-venv/bin/mergekit-yaml")
CASE = "qwen2-0.5b"
_SELECT = ("--set", "select.kinds=[matrix,embedding,norm,bias,head]")  # mergekit merges every tensor


@dataclass(frozen=True)
class Pair:
    """One method under both names."""

    ours: str
    theirs: str
    parameters: dict[str, float]
    needs_base: bool = True


@dataclass(frozen=True)
class Compared:
    """What one method cost here and there."""

    pair: Pair
    ours: measure.Cost
    theirs: measure.Cost
    machine: dict[str, Any]


PAIRS = [
    Pair("average", "linear", {"weight": 1.0}, needs_base=False),
    Pair("task_arithmetic", "task_arithmetic", {"weight": 0.3}),
    Pair("dare_ties", "dare_ties", {"weight": 0.3, "density": 0.8}),
    Pair("ties", "ties", {"weight": 0.3, "density": 0.2}),
]


def main() -> None:
    """Runs every pair once, ours first, prints the ratio and writes a record."""
    base = synthetic.checkpoint(ROOT, CASE, None)
    experts = [synthetic.checkpoint(ROOT, CASE, index) for index in range(FULL_EXPERTS)]
    measured = []
    for pair in PAIRS:
        ours = _ours(pair, base, experts)
        theirs = _theirs(pair, base, experts)
        measured.append(Compared(pair, ours, theirs, machine()))
        print(
            f"{pair.ours:18s} {ours.wall_seconds:6.1f} s {ours.peak_anonymous_bytes / 2**20:6.0f} MiB   "
            f"mergekit {theirs.wall_seconds:6.1f} s {theirs.peak_anonymous_bytes / 2**20:6.0f} MiB   "
            f"× {theirs.wall_seconds / ours.wall_seconds:.1f}",
            flush=True,
        )
    record(measured, "peers")


def _ours(pair: Pair, base: Path, experts: list[Path]) -> measure.Cost:
    out = ROOT / "merged"
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "optmerge.cli", "merge", "--base", str(base), "--method", pair.ours]
    for expert in experts:
        command += ["--expert", str(expert)]
    return measure.run([*command, "--out", str(out), "--quiet", *_SELECT])


def _theirs(pair: Pair, base: Path, experts: list[Path]) -> measure.Cost:
    out, recipe = ROOT / "peer", ROOT / "peer.yaml"
    shutil.rmtree(out, ignore_errors=True)
    config = {
        "merge_method": pair.theirs,
        "dtype": "bfloat16",
        "models": [{"model": str(expert), "parameters": pair.parameters} for expert in experts],
        **({"base_model": str(base)} if pair.needs_base else {}),
    }
    recipe.write_text(yaml.safe_dump(config))
    return measure.run([str(PEER), str(recipe), str(out), "--no-copy-tokenizer"])


if __name__ == "__main__":
    main()
