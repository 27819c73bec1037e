"""Quantities written with their unit, turned into SI numbers once, at the edge.

Bits and bytes are told apart by case: ``b`` or ``bit`` is a bit, ``B`` is a byte. Decimal
prefixes are powers of 1000 (``GB``), binary ones powers of 1024 (``GiB``).
"""

from __future__ import annotations

import math
import re

_DECIMAL = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
_PREFIXES = {**_DECIMAL, **_BINARY}
_TIMES = {"ps": 1e-12, "ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}


def _table(suffixes: dict[str, float]) -> dict[str, float]:
    return {
        prefix + suffix: scale * factor
        for prefix, scale in _PREFIXES.items()
        for suffix, factor in suffixes.items()
    }


#: dimension -> (unit -> factor to SI, an example that the error message shows)
DIMENSIONS: dict[str, tuple[dict[str, float], str]] = {
    "bytes": (_table({"B": 1.0, "bit": 0.125}), "80 GiB"),
    "bytes_per_s": (
        _table({"B/s": 1.0, "Bps": 1.0, "bps": 0.125, "b/s": 0.125, "bit/s": 0.125}),
        "400 Gbps or 3.35 TB/s",
    ),
    "flops_per_s": (_table({"FLOPS": 1.0, "FLOP/s": 1.0, "FLOPs/s": 1.0}), "989.4 TFLOPS"),
    "s": (_TIMES, "5 us"),
    "w": (_table({"W": 1.0}), "700 W"),
    "hz": (_table({"Hz": 1.0}), "1755 MHz"),
}

_QUANTITY = re.compile(r"\s*([+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([A-Za-z/]+)\s*")


_LONGEST = 80


def parse(value: object, dimension: str) -> float:
    """Return `value` (text such as ``"400 Gbps"``) in the SI unit of `dimension`.

    Raises ValueError when the unit is missing, unknown or of another dimension, or when the
    number is not finite. Zero may stand without a unit.
    """
    units, example = DIMENSIONS[dimension]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if value == 0:
            return 0.0
        raise ValueError(f"needs a unit, as in {example!r}")
    if not isinstance(value, str):
        raise ValueError(f"must be a quantity with a unit, as in {example!r}")
    match = _QUANTITY.fullmatch(value) if len(value) <= _LONGEST else None
    if match is None:
        raise ValueError(f"must be a number and a unit, as in {example!r}")
    number, unit = match.groups()
    if unit not in units:
        other = next((name for name, (table, _) in DIMENSIONS.items() if unit in table), None)
        kind = f"is a unit of {_SPOKEN[other]}" if other else "is not a unit that desim knows"
        raise ValueError(f"unit {unit!r} {kind}; {_SPOKEN[dimension]} is needed, as in {example!r}")
    result = _scaled(float(number.replace("_", "")), units[unit])
    if not math.isfinite(result):
        raise ValueError("must be finite")
    return result


def _scaled(number: float, factor: float) -> float:
    """Multiply, rounding once: 5 us is the number 5e-6, which 5 times 1e-6 is not."""
    return number / round(1 / factor) if factor < 1 else number * factor


_SPOKEN = {
    "bytes": "an amount of memory",
    "bytes_per_s": "a bandwidth",
    "flops_per_s": "a rate of floating-point operations",
    "s": "a time",
    "w": "a power",
    "hz": "a frequency",
}

_SHOWN: dict[str, tuple[tuple[float, str], ...]] = {
    "bytes": ((2.0**40, "TiB"), (2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B")),
    "bytes_per_s": ((1e12, "TB/s"), (1e9, "GB/s"), (1e6, "MB/s"), (1e3, "kB/s"), (1.0, "B/s")),
    "flops_per_s": ((1e15, "PFLOPS"), (1e12, "TFLOPS"), (1e9, "GFLOPS"), (1.0, "FLOPS")),
    "s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"), (1e-12, "ps")),
    "w": ((1e3, "kW"), (1.0, "W")),
    "hz": ((1e9, "GHz"), (1e6, "MHz"), (1.0, "Hz")),
}


_ALSO_WRITTEN: dict[str, tuple[tuple[float, str], ...]] = {
    "bytes": ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")),
}


def show(value: float, dimension: str, digits: int = 4) -> str:
    """Write an SI `value` for a person, with `digits` significant digits and its unit."""
    steps = _SHOWN[dimension]
    factor, unit = next(((f, u) for f, u in steps if abs(value) >= f), steps[-1])
    return f"{value / factor:.{digits}g} {unit}"


def write(value: float, dimension: str) -> str:
    """Write an SI `value` so that `parse` gives back exactly the same number."""
    steps = (*_SHOWN[dimension], *_ALSO_WRITTEN.get(dimension, ()))
    exact: list[str] = []
    below_one: list[str] = []
    for factor, unit in steps:
        text = f"{value / factor:.15g}"
        if "e" not in text and _scaled(float(text), factor) == value:
            (exact if abs(value) >= factor else below_one).append(f"{text} {unit}")
    base = next(unit for factor, unit in steps if factor == 1.0)
    return min(exact or below_one, key=len, default=f"{value!r} {base}")
