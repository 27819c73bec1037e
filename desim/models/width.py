"""How many bytes an element takes, by number format and by where it stands."""

from __future__ import annotations

_BYTES = {
    "fp64": 8.0,
    "fp32": 4.0,
    "tf32": 4.0,
    "fp16": 2.0,
    "bf16": 2.0,
    "fp8": 1.0,
    "fp4": 0.5,
}


def stored_bytes(dtype: str) -> float:
    """Bytes of one element of `dtype` (tf32 is stored as fp32)."""
    return _BYTES[dtype]


def element_dtype(compute: str) -> str:
    """Format of activations between GEMMs: formats below 16 bits exist only as GEMM operands."""
    return "bf16" if compute in ("fp8", "fp4") else compute


def element_bytes(compute: str) -> float:
    """Bytes of one activation or weight between GEMMs."""
    return _BYTES[element_dtype(compute)]
