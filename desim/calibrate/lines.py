"""Fits of times by non-negative sums of features, relative to what was measured."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Rounds of reweighting; errors below this share of the time count alike.
_ROUNDS, _CLOSE = 12, 0.02


@dataclass(frozen=True, slots=True)
class Line:
    """A line to fit: its features of every row, and what is known of its weights."""

    features: NDArray[np.float64]
    possible: NDArray[np.bool_]
    """Rows that may follow it."""
    least: NDArray[np.float64]
    """Least weights."""
    free: NDArray[np.bool_]
    """Weights to find; the others are at their least."""

    @property
    def fewest(self) -> int:
        """Fewest rows that determine it: twice its free weights less one."""
        return 2 * int(self.free.sum()) - 1


def fit_line(
    line: Line, rows: NDArray[np.bool_], seconds: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Weights with the least sum of |features @ weights / seconds - 1| over `rows`.

    Least absolute errors by iteratively reweighted least squares (Schlossmacher 1973), so that a
    few outliers among published measurements do not bend the line.
    """
    features, seconds = line.features[rows], seconds[rows]
    rest = 1 - features @ line.least / seconds
    scaled = features * line.free / seconds[:, None]
    weight = np.ones(len(seconds))
    found = np.zeros(features.shape[1])
    for _ in range(_ROUNDS):
        found = _non_negative(scaled * weight[:, None], rest * weight)
        weight = 1 / np.sqrt(np.maximum(np.abs(scaled @ found - rest), _CLOSE))
    return found + line.least


def _non_negative(
    features: NDArray[np.float64], target: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Least squares with no negative weight, by trying every set of weights that are not 0."""
    count = features.shape[1]
    best, least = np.zeros(count), float(target @ target)
    for number in range(1, count + 1):
        for used in map(list, combinations(range(count), number)):
            weights = np.linalg.lstsq(features[:, used], target, rcond=None)[0]
            error = features[:, used] @ weights - target
            if (weights >= 0).all() and float(error @ error) < least:
                least, best = float(error @ error), np.zeros(count)
                best[used] = weights
    return best


def fit_least_of_lines(
    lines: list[Line], seconds: NDArray[np.float64], first: NDArray[np.int64]
) -> tuple[float, list[NDArray[np.float64]]] | None:
    """Fit rows that each follow the lowest of several lines; return (mean error, weights per line).

    Rows begin with the lines of `first`. Lines are fitted on their rows and rows given to the
    lowest line in turn, as k-means does. None where too few rows begin with a line.
    """
    chosen = first
    best: tuple[float, list[NDArray[np.float64]]] | None = None
    for _ in range(_ROUNDS):
        if any((chosen == k).sum() < line.fewest for k, line in enumerate(lines)):
            break
        weights = [fit_line(line, chosen == k, seconds) for k, line in enumerate(lines)]
        prices = np.stack(
            [
                np.where(line.possible, line.features @ weight, np.inf)
                for line, weight in zip(lines, weights, strict=True)
            ]
        )
        error = float(np.abs(prices.min(axis=0) / seconds - 1).mean())
        if best is None or error < best[0]:
            best = (error, weights)
        before, chosen = chosen, prices.argmin(axis=0)
        if (before == chosen).all():
            break
    return best
