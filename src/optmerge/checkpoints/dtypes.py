"""Element types of safetensors files and the torch types that they correspond to."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class DType:
    """An element type: its torch type and its size in bytes."""

    torch: torch.dtype
    itemsize: int


# In the order in which the safetensors library ranks them: files hold the last of these first.
_TORCH_NAMES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E8M0": "float8_e8m0fnu",  # torch ≥ 2.7
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "I16": "int16",
    "U16": "uint16",
    "F16": "float16",
    "BF16": "bfloat16",
    "I32": "int32",
    "U32": "uint32",
    "F32": "float32",
    "C64": "complex64",
    "F64": "float64",
    "I64": "int64",
    "U64": "uint64",
}


def _known() -> dict[str, DType]:
    pairs = ((name, getattr(torch, torch_name, None)) for name, torch_name in _TORCH_NAMES.items())
    return {name: DType(dtype, dtype.itemsize) for name, dtype in pairs if dtype is not None}


DTYPES: dict[str, DType] = _known()
"""safetensors name → torch type and size, in the library's rank order."""

RANKS: dict[str, int] = {name: rank for rank, name in enumerate(_TORCH_NAMES)}

_NAMES = {dtype.torch: name for name, dtype in DTYPES.items()}


def dtype_name(dtype: torch.dtype) -> str:
    """The safetensors name of a torch type.

    Raises:
        KeyError: safetensors can't hold the type (complex128, quantised types).
    """
    return _NAMES[dtype]
