"""SHA-256 of tensors, from bytes as they are read: in any pieces, in any order, some of them more than once.

A tensor's digest is that of the digests of its blocks, one after the other. So it depends on the tensor's
bytes alone, not on how a merge cuts them, and threads hash different blocks of one tensor side by side.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from optmerge.checkpoints.safetensors_format import TensorInfo

BLOCK_BYTES = 1 << 16
"""Bytes that are hashed in one go: no more has to wait for its other half than that."""

FRAGMENTS = 32
"""Blocks that may be there in part at a time. What a further one displaces is read again at the end."""


@dataclass
class _Blocks:
    """Digests of one tensor's blocks, as far as they are known.

    Args:
        digests: 32 bytes for each block.
        taken: 1 for each block that is hashed or being hashed.
        left: how many blocks' digests are still to come.
    """

    digests: bytearray
    taken: bytearray
    left: int


@dataclass
class _Fragment:
    """A block of which a part has been read.

    Args:
        content: its bytes, those to come included.
        spans: ranges that are there, sorted and apart.
    """

    content: bytearray
    spans: list[tuple[int, int]] = field(default_factory=list)

    def add(self, start: int, data: memoryview) -> bool:
        """Whether the block is whole with these bytes at `start`."""
        self.content[start : start + len(data)] = data
        merged: list[tuple[int, int]] = []
        for first, last in sorted([*self.spans, (start, start + len(data))]):
            if merged and first <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
            else:
                merged.append((first, last))
        self.spans = merged
        return merged == [(0, len(self.content))]


class TensorDigests:
    """Digests of a checkpoint's tensors while its bytes come in; safe to use from many threads.

    Args:
        tensors: by name.
        known: digests, hexadecimal, that an earlier run has noted.
    """

    def __init__(self, tensors: Mapping[str, TensorInfo], known: Mapping[str, str] | None = None) -> None:
        self._tensors = tensors
        self._found = {name: digest for name, digest in (known or {}).items() if name in tensors}
        self._open: dict[str, _Blocks] = {}
        self._fragments: OrderedDict[tuple[str, int], _Fragment] = OrderedDict()
        self._lock = threading.Lock()

    def update(self, name: str, start: int, data: memoryview) -> None:
        """Takes note of bytes of a tensor from `start` on."""
        if name in self._found:
            return
        stop, size = start + len(data), self._tensors[name].nbytes
        for block in range(start // BLOCK_BYTES, -(-stop // BLOCK_BYTES)):
            begin, end = block * BLOCK_BYTES, min(size, (block + 1) * BLOCK_BYTES)
            first, last = max(begin, start), min(end, stop)
            piece = data[first - start : last - start]
            whole = self._take(name, block, first - begin, piece, end - begin)
            if whole is not None:
                self._put(name, block, hashlib.sha256(whole).digest())

    def digest(self, name: str) -> str | None:
        """A tensor's digest, hexadecimal; None until all of the tensor has been read."""
        if name not in self._found and not self._tensors[name].nbytes:
            self._found[name] = hashlib.sha256().hexdigest()
        return self._found.get(name)

    def missing(self, name: str) -> Iterator[tuple[int, int]]:
        """Ranges of bytes of a tensor that are still to be read, cut at blocks."""
        if self.digest(name) is not None:
            return
        size, begin = self._tensors[name].nbytes, None
        with self._lock:
            taken = bytes(self._blocks(name).taken)
        for block in range(len(taken) + 1):
            if block < len(taken) and not taken[block]:
                begin = block if begin is None else begin
            elif begin is not None:
                yield begin * BLOCK_BYTES, min(size, block * BLOCK_BYTES)
                begin = None

    def _blocks(self, name: str) -> _Blocks:
        if name not in self._open:
            count = -(-self._tensors[name].nbytes // BLOCK_BYTES)
            self._open[name] = _Blocks(bytearray(32 * count), bytearray(count), count)
        return self._open[name]

    def _take(
        self, name: str, block: int, start: int, piece: memoryview, size: int
    ) -> memoryview | bytearray | None:
        """All of a block for whoever is to hash it; None where some is missing, or another has taken it."""
        with self._lock:
            if name in self._found or self._blocks(name).taken[block]:
                return None
            whole: memoryview | bytearray = piece
            if len(piece) < size:
                fragment = self._fragments.setdefault((name, block), _Fragment(bytearray(size)))
                if not fragment.add(start, piece):
                    if len(self._fragments) > FRAGMENTS:
                        self._fragments.popitem(last=False)
                    return None
                whole = fragment.content
            self._fragments.pop((name, block), None)
            self._blocks(name).taken[block] = 1
            return whole

    def _put(self, name: str, block: int, digest: bytes) -> None:
        with self._lock:
            blocks = self._open[name]
            blocks.digests[32 * block : 32 * (block + 1)] = digest
            blocks.left -= 1
            if not blocks.left:
                self._found[name] = hashlib.sha256(blocks.digests).hexdigest()
                del self._open[name]


def combined(tensors: Mapping[str, TensorInfo], digests: Mapping[str, str | None]) -> str:
    """SHA-256 (hexadecimal) of tensors, in the order of their names: names, types, shapes, and digests.

    Args:
        tensors: by name.
        digests: of the tensors' bytes; of a tensor without one, only name, type and shape count.
    """
    total = hashlib.sha256()
    for name in sorted(tensors):
        info = tensors[name]
        line = f"{name}\0{info.dtype}\0{list(info.shape)}\0{digests.get(name) or '-'}\n"
        total.update(line.encode("utf-8", "surrogatepass"))
    return total.hexdigest()
