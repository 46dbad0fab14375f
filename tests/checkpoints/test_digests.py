"""A tensor's digest is that of its bytes, whatever pieces they came in."""

from __future__ import annotations

import hashlib
import random
import threading
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from optmerge.checkpoints import digests
from optmerge.checkpoints.digests import TensorDigests, combined
from optmerge.checkpoints.safetensors_format import TensorInfo
from worlds.samples import examples

BLOCK = 8
CONTENT = bytes(range(1, 60))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "BLOCK_BYTES", BLOCK)


def info(name: str = "w", size: int = len(CONTENT)) -> TensorInfo:
    return TensorInfo(name, "U8", (size,), Path("f"), 0, size)


def expected(content: bytes = CONTENT) -> str:
    blocks = [content[start : start + BLOCK] for start in range(0, len(content), BLOCK)]
    return hashlib.sha256(b"".join(hashlib.sha256(block).digest() for block in blocks)).hexdigest()


def fed(found: TensorDigests, *spans: tuple[int, int]) -> None:
    for start, stop in spans:
        found.update("w", start, memoryview(CONTENT)[start:stop])


cuts = st.lists(st.integers(0, len(CONTENT)), max_size=12).map(lambda each: sorted({0, len(CONTENT), *each}))


@pytest.mark.sampled
@given(cuts=cuts, seed=st.integers(0, 99), again=st.lists(cuts, max_size=2))
@settings(max_examples=examples(25, 500), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pieces_their_order_and_second_readings_do_not_matter(
    cuts: list[int], seed: int, again: list[list[int]]
) -> None:
    spans = [span for each in (cuts, *again) for span in pairwise(each)]
    random.Random(seed).shuffle(spans)
    found = TensorDigests({"w": info()})
    fed(found, *spans)

    assert found.digest("w") == expected() and list(found.missing("w")) == []


def test_what_is_missing_is_told_in_whole_blocks() -> None:
    found = TensorDigests({"w": info()})
    fed(found, (0, 8), (18, 24), (32, 48))

    assert found.digest("w") is None
    assert list(found.missing("w")) == [(8, 32), (48, 59)]
    fed(found, *found.missing("w"))
    assert found.digest("w") == expected()


def test_scattered_samples_hold_little_memory_and_do_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "FRAGMENTS", 2)
    found = TensorDigests({"w": info()})
    fed(found, *((start, start + 3) for start in range(0, 56, 8)))

    assert len(found._fragments) <= 2
    fed(found, *found.missing("w"))
    assert found.digest("w") == expected()


def test_threads_may_read_side_by_side() -> None:
    found = TensorDigests({"w": info()})
    spans = [(start, min(start + 5, len(CONTENT))) for start in range(0, len(CONTENT), 5)]
    threads = [threading.Thread(target=fed, args=(found, *spans[i:], *spans[:i])) for i in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()

    assert found.digest("w") == expected()


def test_an_empty_tensor_has_a_digest_and_a_known_one_is_not_read_again() -> None:
    found = TensorDigests({"empty": info("empty", 0), "w": info()}, {"w": "noted", "gone": "x"})

    assert found.digest("empty") == hashlib.sha256().hexdigest()
    assert found.digest("w") == "noted" and list(found.missing("w")) == []


def test_names_types_and_shapes_are_part_of_an_identity() -> None:
    one = combined({"w": info()}, {"w": "d"})

    assert one != combined({"v": info("v")}, {"v": "d"})
    assert one != combined({"w": TensorInfo("w", "I8", (59,), Path("f"), 0, 59)}, {"w": "d"})
    assert one != combined({"w": TensorInfo("w", "U8", (59, 1), Path("f"), 0, 59)}, {"w": "d"})
    assert one != combined({"w": info()}, {})
