"""Times between measured sizes."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from itertools import product
from math import exp, log, prod
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from desim.kernels.time import Source

    Sizes = tuple[float, ...]

#: Sizes beyond the largest, by this factor at most, run at the largest one's rate.
_FARTHEST = 4.0


class Found(NamedTuple):
    """A time, and whether sizes around it were measured."""

    seconds: float
    source: Source


class Grid:
    """Times of one kind of kernel over its sizes.

    At a measured size the time is what was measured. Between, it is the multilinear interpolation
    of the logarithms over those of the sizes (a power law between neighbours): never outside of
    what the neighbours took, and growing along an axis where they do. Beyond the largest size
    it grows as the work, which goes with the power `exponents` of each size. Elsewhere, and where
    a neighbour is missing, the grid knows nothing.
    """

    def __init__(self, points: Mapping[Sizes, float], exponents: tuple[int, ...]) -> None:
        self._points = dict(points)
        self._exponents = exponents
        self._axes = tuple(_lines(self._points, axis) for axis in range(len(exponents)))

    def at(self, sizes: Sizes) -> Found | None:
        """Return the time at `sizes`, or None where nothing near was measured."""
        exact = self._points.get(sizes)
        if exact is not None:
            return Found(exact, "measured")
        last = tuple(axis[-1] for axis in self._axes)
        for size, axis in zip(sizes, self._axes, strict=True):
            if size < axis[0] or size > _FARTHEST * axis[-1]:
                return None
        inside = tuple(map(min, sizes, last))
        seconds = self._between(inside)
        if seconds is None:
            return None
        if inside == sizes:
            return Found(seconds, "measured")
        ratios = zip(sizes, inside, self._exponents, strict=True)
        return Found(seconds * prod((s / i) ** e for s, i, e in ratios), "extrapolated")

    def _between(self, sizes: Sizes) -> float | None:
        sides = [_neighbours(size, axis) for size, axis in zip(sizes, self._axes, strict=True)]
        total = 0.0
        for corner in product(*sides):
            seconds = self._points.get(tuple(size for size, _ in corner))
            if seconds is None:
                return None
            total += prod(weight for _, weight in corner) * log(seconds)
        return exp(total)


def _neighbours(size: float, axis: tuple[float, ...]) -> list[tuple[float, float]]:
    """Return the one or two measured sizes around `size` with their weights."""
    place = bisect_right(axis, size)
    low = axis[place - 1]
    if low == size:
        return [(low, 1.0)]
    high = axis[place]
    share = log(size / low) / log(high / low)
    return [(low, 1.0 - share), (high, share)]


def _lines(points: Mapping[Sizes, float], axis: int) -> tuple[float, ...]:
    """Return the sizes of an axis that many points share.

    Points of their own (the sizes of one model) lie on no line of the grid: through them it would
    have holes. They are known exactly and not interpolated.
    """
    counts = Counter(sizes[axis] for sizes in points)
    most = max(counts.values())
    return tuple(sorted(size for size, count in counts.items() if 2 * count >= most))
