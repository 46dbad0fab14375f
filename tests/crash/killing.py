"""Merges in processes of their own that are killed on purpose: at a step of theirs, or at any moment."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch
import yaml

import optmerge
from optmerge.engine.output import dense as dense_output
from optmerge.engine.output import folder as state
from worlds.merges import contents, save_adapter, weights, world

Landed = Literal["before", "in the middle", "after"]

CHANGES_THE_DISK = frozenset({"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate"})
"""Audit events; `open` for writing is one more."""


@dataclass(frozen=True)
class Merge:
    """A merge to be interrupted, and what it gives when it isn't.

    Args:
        recipe: of the merge.
        out: its folder.
        whole: every file of the uninterrupted output.
    """

    recipe: dict[str, Any]
    out: Path
    whole: dict[str, bytes] = field(repr=False)

    def landed(self) -> Landed:
        """When a kill came, judged by what it left."""
        if (self.out / state.STATE).is_dir():
            return "in the middle"
        return "after" if (self.out / state.PROVENANCE).exists() else "before"

    def assert_resumable(self) -> None:
        """Ends as if nothing had happened."""
        optmerge.merge(self.recipe, self.out, mode="resume")
        self.assert_whole()

    def assert_whole(self) -> None:
        """the output is that of the uninterrupted merge."""
        found = contents(self.out)
        assert found.keys() == self.whole.keys()
        assert [name for name in found if found[name] != self.whole[name]] == []


def prepared(root: Path, kind: str, *, matrices: int, size: int) -> Merge:
    """A merge of one kind: a survey (ties), a solver (optmerge) in several shards, or a merged adapter."""
    generator = torch.Generator().manual_seed(0)
    added = {
        f"model.layers.{index}.mlp.gate_proj.weight": torch.randn(size, size, generator=generator)
        for index in range(matrices)
    }
    base = weights() | added
    shards = {"shard_size": (4 * size * size * matrices + 4000) // 4}
    if kind == "adapter":
        models = world(root, experts=0, base=base)
        folders = [save_adapter(root / f"a{seed}", list(added), base=base, seed=seed) for seed in (0, 1)]
        recipe = models.recipe(experts=[str(folder) for folder in folders], output="adapter")
    else:
        models = world(root, base=base, files={"tokenizer_config.json": {}, "sub/chat.jinja": "{}"})
        recipe = models.recipe(method=METHODS[kind], output=shards)
    optmerge.merge(recipe, root / "whole")
    return Merge(recipe, models.out, contents(root / "whole"))


METHODS: dict[str, dict[str, Any]] = {
    "survey": {"name": "ties", "trim": "model", "keep": 0.3},
    "solver": {"name": "optmerge", "steps": 20},
}
KINDS = (*METHODS, "adapter")


class Forks:
    """A process that has everything imported and forks one child per merge: a start takes milliseconds."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", f"from {__name__} import serve; serve()"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def run_until_step(self, merge: Merge, step: int, mode: state.Mode = "new") -> int | None:
        """Merges in a process that kills itself before its n-th change of the disk.

        Returns:
            None if it did, else how many changes there were until the end.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        request = {"recipe": merge.recipe, "out": str(merge.out), "mode": mode, "step": step}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        status, count = json.loads(self._process.stdout.readline())
        assert status in (0, -signal.SIGKILL), f"exit code {status}"
        return count if status == 0 else None

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()


def serve() -> None:
    """The other side of `Forks`: a request per line, an exit code and a count per answer.

    Every kind of merge is run once before the first fork, so that nothing is left to be loaded; on one core,
    since OpenMP's threads don't survive a fork.
    """
    torch.set_num_threads(1)
    warm: list[Any] = []
    for line in sys.stdin:
        request = json.loads(line)
        if request["recipe"] not in warm:
            with tempfile.TemporaryDirectory() as folder:
                optmerge.merge(request["recipe"], Path(folder) / "out")
            warm.append(request["recipe"])
        receive, send = os.pipe()
        child = os.fork()
        if child == 0:
            _merge_until(request, send)
        os.close(send)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        with os.fdopen(receive) as pipe:
            print(json.dumps([status, int(pipe.read() or 0)]), flush=True)


def _merge_until(request: dict[str, Any], send: int) -> NoReturn:
    torch.set_num_threads(2)
    dense_output.SYNC_SECONDS = 0.0
    last = request["step"]
    try:
        out = Path(request["out"])
        with steps(out, lambda n, _: os.kill(os.getpid(), signal.SIGKILL) if n == last else None) as count:
            optmerge.merge(request["recipe"], request["out"], mode=request["mode"])
            os.write(send, str(count()).encode())
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


@contextmanager
def steps(out: Path, before: Callable[[int, str], object]) -> Iterator[Callable[[], int]]:
    """Calls back before every change of a folder, with its number from 0 and its name; yields the count."""
    number, active, lock = 0, True, threading.Lock()

    def tell(name: str) -> None:
        nonlocal number
        with lock:
            number += 1
            before(number - 1, name)

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        changes = event in CHANGES_THE_DISK or (event == "open" and _writes(arguments))
        if active and changes and _within(out, arguments[0]):
            tell(event)

    def told(name: str, action: Callable[..., Any]) -> Callable[..., Any]:
        def act(*arguments: Any) -> Any:
            tell(name)
            return action(*arguments)

        return act

    names = ("pwrite", "fsync", "posix_fallocate")  # which have no audit event
    before_that = {name: getattr(os, name) for name in names}
    sys.addaudithook(audit)
    try:
        for name, action in before_that.items():
            setattr(os, name, told(name, action))
        yield lambda: number
    finally:
        active = False  # a hook can't be taken back
        for name, action in before_that.items():
            setattr(os, name, action)


def _within(out: Path, place: Any) -> bool:
    """Whether a path may be one of the folder: libraries keep caches elsewhere."""
    path = Path(place) if isinstance(place, str | os.PathLike) else Path()
    return not path.is_absolute() or path.is_relative_to(out)


def _writes(arguments: tuple[Any, ...]) -> bool:
    return len(arguments) > 2 and bool((arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR))


# --- the command line itself

COMMAND = """
import sys
from optmerge.engine.output import dense as dense_output
from optmerge.cli import main
dense_output.SYNC_SECONDS = 0.0
print("ready", flush=True)
main()
"""


def start(merge: Merge, *options: str) -> subprocess.Popen[str]:
    """The command line in a process of its own; returns when its imports are done."""
    recipe = merge.out.parent / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(merge.recipe, sort_keys=False))
    command = [sys.executable, "-c", COMMAND, "merge", str(recipe), "--out", str(merge.out), "-q", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", process.communicate()
    return process


@dataclass(frozen=True)
class Pace:
    """How long a command takes until it touches its folder, and from there until all is in place; seconds."""

    before: float
    during: float

    def faster(self) -> Pace:
        """Of a machine that had been busy when it was measured."""
        return replace(self, during=0.8 * self.during)


def pace_of(merge: Merge) -> Pace:
    """Runs the command once, which must give the whole output."""
    process = start(merge)
    started = time.monotonic()
    _wait(process, merge, begun=True)
    begun = time.monotonic()
    _wait(process, merge, begun=False)
    ended = time.monotonic()
    message = process.communicate(timeout=120)[1]
    assert process.returncode == 0, message
    merge.assert_whole()
    return Pace(begun - started, ended - begun)


def signalled(
    merge: Merge, number: signal.Signals, pace: Pace, chance: random.Random, *options: str
) -> tuple[int, str]:
    """Sends a signal at some moment, mostly one of those that matter; the exit code and what was said."""
    process = start(merge, *options)
    if chance.random() < 0.1:
        time.sleep(chance.uniform(0.02, pace.before))
    else:
        _wait(process, merge, begun=True)
        time.sleep(chance.uniform(0, 1.05 * pace.during))
    process.send_signal(number)
    message = process.communicate(timeout=120)[1]
    return process.returncode, message


def _wait(process: subprocess.Popen[str], merge: Merge, *, begun: bool) -> None:
    while process.poll() is None and (merge.out / state.STATE).exists() != begun:
        time.sleep(0.001)
