"""Cells of a row that hold numbers, or why the row cannot be simulated."""

from __future__ import annotations

import math
from collections.abc import Mapping

from desim.validate.assumptions import UnscoredError

_SHOWN = 40  # characters of a cell that a message has room for


def count(row: Mapping[str, str], column: str, default: int | None = None) -> int:
    """Return a cell as a whole number, `default` where it is blank.

    Raises UnscoredError, which names the column and what stands there.
    """
    text = row.get(column, "").strip()
    if not text:
        if default is None:
            raise UnscoredError(f"{column} is neither stated nor assumed")
        return default
    try:
        value = float(text)
    except ValueError:
        raise UnscoredError(f"{column} is not a number: {_quoted(text)}") from None
    if not math.isfinite(value):
        raise UnscoredError(f"{column} must be finite: {_quoted(text)}")
    if value != int(value):
        raise UnscoredError(f"{column} must be a whole number: {_quoted(text)}")
    return int(value)


def positive(row: Mapping[str, str], column: str, default: int | None = None) -> int:
    """Return a cell as `count` does, refusing what is not above 0: others are divided by it."""
    value = count(row, column, default)
    if value < 1:
        raise UnscoredError(f"{column} must be above 0: {value}")
    return value


def word(row: Mapping[str, str], column: str) -> str:
    """Return a cell that must not be blank; raises UnscoredError."""
    text = row.get(column, "").strip()
    if not text:
        raise UnscoredError(f"{column} is neither stated nor assumed")
    return text


def _quoted(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}...")
