"""`python -m perf.run [CASE …]`: merges synthetic checkpoints and prints each cost beside its limit."""

from __future__ import annotations

import argparse
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from perf import measure, synthetic

from optmerge import plan
from optmerge.bench import records

ROOT = Path("out/perf")
RECORDS = Path("results/perf")
FULL_EXPERTS, RANK = 5, 64


@dataclass(frozen=True)
class Row:
    """One merge to measure.

    Args:
        case: a key of `perf.shapes.CASES`.
        experts: `full` or `adapter`.
        method: name of the method.
        options: more `optmerge merge` arguments.
        target: what it should reach, in words.
    """

    case: str
    experts: str
    method: str
    options: tuple[str, ...] = ()
    target: str = ""

    @property
    def name(self) -> str:
        """What the table calls it."""
        return " ".join([self.case, self.experts, self.method, *self.options])


_EVERYTHING = ("--set", "select.kinds=[matrix,embedding,norm,bias,head]")
ROWS = {
    "elementwise": [
        Row("qwen2-0.5b", "full", "average", _EVERYTHING, "≤ 1.5 × I/O"),
        Row("qwen2-0.5b", "full", "task_arithmetic", _EVERYTHING, "≤ 1.5 × I/O"),
        Row("qwen2-0.5b", "full", "dare_task_arithmetic", _EVERYTHING, "≤ 2 × I/O"),
        Row("qwen2-0.5b", "full", "dare_ties", _EVERYTHING, "≤ 2 × I/O"),
        Row("qwen2-0.5b", "full", "ties", _EVERYTHING, "≤ 3 × I/O"),
    ],
    "solvers": [
        Row("internvl2.5-1b", "full", "optmerge", ("--set", "variant=lora"), "≤ 90 s"),
        Row("internvl2.5-1b", "full", "optmerge", ("--set", "solver=closed_form"), "≤ 90 s"),
        Row("internvl2.5-1b", "full", "optmerge", ("--set", "variant=lora", "--memory", "1GiB"), "≤ 1 GiB"),
    ],
    "adapters": [
        Row("qwen2-vl-7b", "adapter", "optmerge", ("--set", "output=adapter"), "≤ 60 s"),
        Row("qwen2-vl-7b", "adapter", "optmerge", ("--memory", "2GiB"), "≤ 2 × I/O + 60 s, ≤ 2 GiB"),
    ],
}


@dataclass(frozen=True)
class Measured:
    """A row with its figures; times in seconds, memory in bytes."""

    row: Row
    cost: measure.Cost
    io_seconds: float
    flop_seconds: float
    idle: measure.Cost
    planned_peak_bytes: int
    machine: dict[str, Any] = field(default_factory=dict)


def main() -> None:
    """Measures the rows asked for, one after the other, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("groups", nargs="+", choices=[*ROWS, "all"])
    chosen = parser.parse_args().groups
    rows = [row for group in ROWS if group in chosen or "all" in chosen for row in ROWS[group]]
    idle, rate = measure.idle(), measure.matmul_rate()
    measured = []
    for row in rows:
        measured.append(measure_row(row, idle, rate))
        print_row(measured[-1])
    record(measured, "merges")


def measure_row(row: Row, idle: measure.Cost, rate: float) -> Measured:
    """Makes the inputs, measures the limits on them, runs the merge."""
    base = synthetic.checkpoint(ROOT, row.case, None)
    make: Callable[[int], Path] = (
        (lambda i: synthetic.checkpoint(ROOT, row.case, i))
        if row.experts == "full"
        else (lambda i: synthetic.adapter(ROOT, row.case, i, RANK))
    )
    experts = [make(index) for index in range(FULL_EXPERTS)]
    settings = [word for flag, word in zip(row.options, row.options[1:], strict=False) if flag == "--set"]
    planned = _plan(base, experts, row.method, settings)
    files = [file for folder in (base, *experts) for file in sorted(folder.glob("*.safetensors"))]
    out = ROOT / "merged"
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "optmerge.cli", "merge", "--base", str(base), "--method", row.method]
    for expert in experts:
        command += ["--expert", str(expert)]
    command += ["--out", str(out), "--quiet", *row.options]
    measure.io_limit(files, planned.cost.bytes_written, ROOT / "scratch")  # warms the page cache
    cost = measure.run(command)
    io_seconds = measure.io_limit(files, planned.cost.bytes_written, ROOT / "scratch")
    shutil.rmtree(out)
    return Measured(
        row, cost, io_seconds, planned.cost.flops / rate, idle, planned.cost.peak_bytes, machine()
    )


def _plan(base: Path, experts: list[Path], method: str, settings: list[str]) -> Any:
    from optmerge.recipe import override, parse_recipe

    data = {"base": str(base), "experts": [str(expert) for expert in experts], "method": method}
    return plan(parse_recipe(override(data, settings)))


def print_row(measured: Measured) -> None:
    """One line of the table."""
    cost, mib = measured.cost, 2**20
    idle_mib = measured.idle.peak_anonymous_bytes / mib
    limit = measured.io_seconds + measured.flop_seconds
    net = cost.wall_seconds - measured.idle.wall_seconds
    print(
        f"{measured.row.name:72s} {cost.wall_seconds:7.1f} s ({net:.1f} s without start-up)  "
        f"I/O limit {measured.io_seconds:5.2f} s  FLOP limit {measured.flop_seconds:5.2f} s  "
        f"ratio {cost.wall_seconds / limit:5.1f} ({net / limit:.1f})  "
        f"peak {cost.peak_anonymous_bytes / mib:6.0f} MiB (idle {idle_mib:.0f}, "
        f"planned {measured.planned_peak_bytes / mib:.0f})  target {measured.row.target}",
        flush=True,
    )


def record(measured: Sequence[Any], name: str) -> None:
    """Appends dataclass instances to `results/perf/NAME.jsonl`, one a line."""
    created = records.now()
    for each in measured:
        records.append({"created": created, **asdict(each)}, RECORDS / f"{name}.jsonl")


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    model = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    threads = torch.get_num_threads()
    return {
        "cpu": model,
        "threads": threads,
        "torch": version("torch"),
        "optmerge": version("optmerge"),
        "commit": commit,
    }


if __name__ == "__main__":
    main()
