"""Spans that differ only in when they ran, or for which micro-batch and layer, share one text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from desim.record import Spans

    Indices = NDArray[np.int64]


def distinct(*columns: NDArray[np.generic]) -> tuple[Indices, Indices]:
    """Return (first, inverse): a row of each distinct combination, and each row's combination.

    Columns are of equal length. Combinations are numbered in an order that depends on their
    values alone.
    """
    key = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        codes, width = _codes(column)
        key = key * width + codes
    _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    return first, inverse


def _codes(column: NDArray[np.generic]) -> tuple[Indices, int]:
    """Return small non-negative codes of a column's values, and a bound on them."""
    if column.dtype.kind == "f":
        values, inverse = np.unique(column, return_inverse=True)
        return inverse, len(values)
    low = int(column.min(initial=0))
    codes = column.astype(np.int64) - low
    return codes, int(codes.max(initial=0)) + 1


def distinct_labels(spans: Spans) -> tuple[Indices, Indices]:
    """Group spans by everything but times, micro-batch and layer; see `distinct`."""
    return distinct(spans.lane, spans.name, spans.kind, spans.phase, spans.group, spans.size_bytes)
