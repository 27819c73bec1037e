"""What a study looks for: an objective, and constraints that a point has to meet."""

from __future__ import annotations

import difflib
import math
import operator
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from desim.study.scalars import COMMUNICATION, OPEN, scalar_names
from desim.units import DIMENSIONS, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_CONSTRAINT = re.compile(r"\s*([A-Za-z_][\w.]*)\s*(?:(<=|>=|<|>)\s*(.+?)\s*)?")


@dataclass(frozen=True, slots=True)
class Objective:
    """A scalar of the summary that is to be small, or large."""

    name: str = "step_time_s"
    maximise: bool = False

    def cost(self, row: Mapping[str, Any]) -> float:
        """Return a number that is smaller the better a point is; infinite where it has none."""
        value = row.get(self.name)
        if not isinstance(value, (int, float)) or math.isnan(value):
            return math.inf
        return -float(value) if self.maximise else float(value)


@dataclass(frozen=True, slots=True)
class Constraint:
    """A scalar of the summary that has to be true, or to be on one side of a limit (in SI)."""

    name: str
    sign: str = ""
    limit: float = 0.0
    text: str = ""

    def met(self, row: Mapping[str, Any]) -> bool:
        """Whether a point meets it."""
        value = row.get(self.name)
        if not self.sign:
            return bool(value)
        return isinstance(value, (int, float)) and _COMPARE[self.sign](float(value), self.limit)

    def __str__(self) -> str:
        return self.text


def read_constraint(text: str) -> Constraint:
    """Read `fits` or `peak_memory_bytes.max <= 70 GiB`; raises ValueError with what it may be."""
    found = _CONSTRAINT.fullmatch(text)
    if found is None:
        raise ValueError(
            "must be a scalar of the summary, or one with <, <=, >= or > and a number or quantity"
        )
    name, sign, limit = found.groups()
    return Constraint(name, sign or "", _limit(limit) if limit else 0.0, " ".join(text.split()))


def _limit(text: str) -> float:
    """A number, or a quantity of any dimension in SI."""
    try:
        return float(text)
    except ValueError:
        pass
    for dimension in DIMENSIONS:
        try:
            return parse(text, dimension)
        except ValueError:
            continue
    raise ValueError(f"{text!r} is neither a number nor a quantity such as '70 GiB' or '2.5 s'")


def unknown_name(name: str, known: Collection[str]) -> str:
    """Return a hint where the summary has no scalar of this name, else nothing."""
    if name in known or _of_other_points(name, known):
        return ""
    close = difflib.get_close_matches(name, known, n=1)
    below = [other for other in known if other.startswith(f"{name}.")]
    if below:
        return f"it has parts: {', '.join(sorted(below)[:4])}"
    if close:
        return f"did you mean {close[0]!r}?"
    return f"scalars: {', '.join(sorted(known)[:8])}, ..."


def never_known(name: str) -> str:
    """Return a hint where no scenario's summary can have a scalar of this name, else nothing."""
    return "" if name.startswith(f"{OPEN}.") else unknown_name(name, scalar_names())


def _of_other_points(name: str, known: Collection[str]) -> bool:
    """Whether a name differs from a known one in its lane or stage, which other points may have."""

    def shape(text: str) -> list[str]:
        parts = text.split(".")
        return ["*" if part.isdigit() or part in COMMUNICATION else part for part in parts]

    return "*" in shape(name) and shape(name) in map(shape, known)
