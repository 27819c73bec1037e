"""Ranges of an axis: `{from, to, step | factor}` written out as the values between."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from desim.spec.nodes import Scalar

KEYS = ("from", "to", "step", "factor")
MAX_VALUES = 1_000_000
_QUANTITY = re.compile(r"\s*([+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([A-Za-z/]*)\s*")


def spread(written: Mapping[str, Scalar]) -> tuple[Scalar, ...]:
    """Return the values from `from` to `to`, both included where the steps meet them.

    Quantities keep the unit of `from`, whole numbers stay whole. Raises ValueError, which says
    what is wrong.
    """
    missing = [key for key in ("from", "to") if key not in written]
    unknown = [key for key in written if key not in KEYS]
    if missing or unknown or ("step" in written) == ("factor" in written):
        raise ValueError("a range has the keys from, to and one of step and factor")
    first, unit = _number(written["from"], "from")
    last, other = _number(written["to"], "to")
    if unit != other:
        raise ValueError(
            f"from and to must have the same unit ({unit or 'none'}, {other or 'none'})"
        )
    if "factor" in written:
        numbers = _by_factor(first, last, _factor(written["factor"]))
    else:
        by, by_unit = _number(written["step"], "step")
        if by_unit != unit:
            raise ValueError(f"step must have the unit of from ({unit or 'none'})")
        numbers = _by_step(first, last, by)
    return tuple(_value(number, unit) for number in numbers)


def _number(value: Scalar, key: str) -> tuple[float, str]:
    """The number and the unit of one end of a range."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value), ""
    found = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"{key} must be a number or a quantity with a unit, and is {value!r}")
    return float(found[1].replace("_", "")), found[2]


def _factor(value: Scalar) -> float:
    number, unit = _number(value, "factor")
    if unit:
        raise ValueError("factor must be a number without a unit")
    return number


def _by_step(first: float, last: float, step: float) -> list[float]:
    if step == 0 or (last - first) / step < 0:
        turned = f"; {-step:g} does" if step else ""
        raise ValueError(f"steps of {step:g} do not lead from {first:g} to {last:g}{turned}")
    return [first + i * step for i in range(_count((last - first) / step))]


def _by_factor(first: float, last: float, factor: float) -> list[float]:
    reached = first * last > 0 and factor > 0 and factor != 1
    steps = math.log(last / first) / math.log(factor) if reached else -1.0
    if steps < 0:
        raise ValueError(f"a factor of {factor:g} does not lead from {first:g} to {last:g}")
    return [first * factor**i for i in range(_count(steps))]


def _count(steps: float) -> int:
    """How many values so many steps make; a last one that rounding has just missed counts."""
    if steps >= MAX_VALUES:
        raise ValueError(f"more than {MAX_VALUES:,} values")
    return int(steps + 1e-9) + 1


def _value(number: float, unit: str) -> Scalar:
    rounded = float(f"{number:.12g}")
    if unit:
        return f"{rounded:.12g} {unit}"
    return int(rounded) if rounded.is_integer() else rounded
