"""What a file that isn't safetensors seems to be, for error messages only."""

from __future__ import annotations

_SIGNATURES = (
    (b"PK\x03\x04", "a zip archive: probably a PyTorch checkpoint (pickle)"),
    (b"\x80", "a pickle"),
    (b"GGUF", "a GGUF file"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x28\xb5\x2f\xfd", "a zstandard archive"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"version https://git-lfs", "a Git LFS pointer: run `git lfs pull` to get the weights"),
    (b"<", "a web page: the download probably needed a login"),
    (b"{", "a JSON text"),
)


def seems_to_be(start: bytes) -> str | None:
    """A description of the format that a file's first bytes suggest; None when they suggest none."""
    if start[:1] == b"\x80" and start[1:2] not in {b"\x02", b"\x03", b"\x04", b"\x05"}:
        return None  # 0x80 alone is a likely low byte of a header length
    return next((what for signature, what in _SIGNATURES if start.lstrip().startswith(signature)), None)
