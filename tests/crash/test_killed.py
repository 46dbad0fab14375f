"""A merge that is killed, at any step or any moment, continues to the same bytes."""

from __future__ import annotations

import random
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import optmerge
from crash.killing import KINDS, Forks, Merge, pace_of, prepared, signalled
from optmerge import Options
from optmerge.engine.output.folder import PROVENANCE, STATE
from worlds.merges import contents

SMALL = {"matrices": 4, "size": 24}
FEW = 3
"""Kills of the fast suite, per kind of merge."""


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    server = Forks()
    yield server
    server.close()


@pytest.fixture(params=KINDS)
def merge(request: pytest.FixtureRequest, tmp_path: Path) -> Merge:
    return prepared(tmp_path, request.param, **SMALL)


def fresh(merge: Merge) -> None:
    shutil.rmtree(merge.out, ignore_errors=True)


def steps_of(forks: Forks, merge: Merge) -> int:
    """How many changes of the disk the merge makes."""
    count = forks.run_until_step(merge, -1)
    assert count is not None and count > 20
    fresh(merge)
    return count


def kill_and_resume(forks: Forks, merge: Merge, step: int) -> bool:
    """Whether it was killed: threads may take a step more or less than the last time."""
    killed = forks.run_until_step(merge, step) is None
    merge.assert_resumable()
    fresh(merge)
    return killed


def test_a_merge_killed_at_a_step_continues_to_the_same_bytes(forks: Forks, merge: Merge) -> None:
    count = steps_of(forks, merge)
    for step in random.Random(0).sample(range(count - 10), FEW):
        assert kill_and_resume(forks, merge, step)


@pytest.mark.slow
def test_a_merge_killed_at_every_step_continues_to_the_same_bytes(forks: Forks, merge: Merge) -> None:
    count = steps_of(forks, merge)
    killed = sum(kill_and_resume(forks, merge, step) for step in range(count))

    assert killed > count - 10


@pytest.mark.slow
def test_a_resumed_merge_killed_again_continues_to_the_same_bytes(forks: Forks, merge: Merge) -> None:
    count, chance = steps_of(forks, merge), random.Random(1)
    for _ in range(20):
        forks.run_until_step(merge, chance.randrange(count))
        for _ in range(3):
            forks.run_until_step(merge, chance.randrange(count), "resume")
        merge.assert_resumable()
        fresh(merge)


@pytest.mark.slow
def test_an_overwriting_merge_killed_at_every_step_leaves_one_of_the_two(forks: Forks, merge: Merge) -> None:
    """The earlier output stays whole until the new one is; from then on `--resume` ends the move."""
    count = steps_of(forks, merge)
    for step in range(0, count, 3):
        earlier = {"config.json": b"an earlier one", "stale.txt": b"of the earlier one"}
        merge.out.mkdir()
        for name, content in earlier.items():
            (merge.out / name).write_bytes(content)
        (merge.out / PROVENANCE).write_text('{"files": ["stale.txt", "config.json"]}')
        forks.run_until_step(merge, step, "overwrite")
        if (merge.out / STATE / "staging" / PROVENANCE).exists():
            merge.assert_resumable()
        fresh(merge)


@pytest.mark.slow
def test_a_kill_while_starting_over_does_not_make_believe_that_the_first_merge_was_done(
    forks: Forks, merge: Merge
) -> None:
    """A first merge is killed while its files are moved into place, and starting over is killed soon."""
    count = steps_of(forks, merge)
    for step in range(12):
        assert forks.run_until_step(merge, count - 12) is None
        forks.run_until_step(merge, step, "overwrite")
        merge.assert_resumable()
        fresh(merge)


@pytest.mark.slow
def test_starting_over_after_a_kill_leaves_no_file_of_the_first_merge(forks: Forks, merge: Merge) -> None:
    """Of every merge given up while its files are moved; starting over may be killed too."""
    count, other = steps_of(forks, merge), {**merge.recipe, "dtype": "float16"}
    if merge.recipe["output"] != "adapter":
        other["output"] = "dense"  # in one file
    optmerge.merge(other, merge.out)
    expected = Merge(other, merge.out, contents(merge.out))
    fresh(merge)
    for step in range(count - 25, count - 2):
        forks.run_until_step(merge, step)
        if step % 2:
            forks.run_until_step(expected, 10, "overwrite")
        optmerge.merge(other, merge.out, Options(mode="overwrite"))
        expected.assert_whole()
        fresh(merge)


# --- at any moment of the real command

TRIALS, INTERRUPTS = 20, 6
NATURAL = {
    "survey": {"matrices": 48, "size": 512},
    "solver": {"matrices": 48, "size": 64},
    "adapter": {"matrices": 400, "size": 64},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_command_killed_at_any_moment_continues_to_the_same_bytes(kind: str, tmp_path: Path) -> None:
    merge = prepared(tmp_path, kind, **NATURAL[kind])
    pace, landed, chance = pace_of(merge), Counter[str](), random.Random(kind)
    for _ in range(TRIALS):
        fresh(merge)
        signalled(merge, signal.SIGKILL, pace, chance)
        landed[merge.landed()] += 1
        pace = pace if merge.landed() != "after" else pace.faster()
        if merge.landed() == "in the middle" and chance.random() < 0.3:
            signalled(merge, signal.SIGKILL, pace, chance, "--resume")
        merge.assert_resumable()
    print(kind, pace, dict(landed))
    assert landed["in the middle"] >= TRIALS / 4


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_command_interrupted_at_any_moment_says_so_and_can_be_resumed(
    kind: str, number: signal.Signals, code: int, tmp_path: Path
) -> None:
    merge = prepared(tmp_path, kind, **NATURAL[kind])
    pace, codes, chance = pace_of(merge), Counter[int](), random.Random(kind)
    for _ in range(INTERRUPTS):
        fresh(merge)
        found, message = signalled(merge, number, pace, chance)
        codes[found] += 1
        if merge.landed() == "after":
            pace = pace.faster()
        else:  # afterwards the interpreter may be ending, and has no handlers any more
            assert found == code
            assert message == "interrupted; a merge continues with the same command and --resume\n"
        merge.assert_resumable()
    print(kind, number.name, pace, dict(codes))
    assert codes[code] >= INTERRUPTS / 3
