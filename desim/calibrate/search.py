"""A minimum without derivatives, for fits of a handful of constants."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Point = NDArray[np.float64]


def minimise(
    cost: Callable[[Point], float],
    start: Point,
    lower: Point,
    upper: Point,
    rounds: int = 300,
    tolerance: float = 1e-6,
) -> tuple[Point, float]:
    """Return the best point inside the box and its cost: the simplex of Nelder and Mead (1965).

    Points outside are judged at the nearest one inside plus their distance from it in boxes. The
    first simplex spans a quarter of the box. Same arguments, same result.
    """
    width = upper - lower

    def judged(point: Point) -> float:
        inside = np.clip(point, lower, upper)
        return cost(inside) + float(np.sum(np.abs(point - inside) / width))

    corners = [np.array(start, dtype=float)]
    for axis in range(len(start)):
        step = np.zeros(len(start))
        step[axis] = width[axis] / 4 * (1 if start[axis] < (lower + upper)[axis] / 2 else -1)
        corners.append(corners[0] + step)
    costs = [judged(corner) for corner in corners]
    for _ in range(rounds):
        order = np.argsort(costs, kind="stable")
        corners, costs = [corners[i] for i in order], [costs[i] for i in order]
        if costs[-1] - costs[0] < tolerance:
            break
        _improve(corners, costs, judged)
    best = int(np.argmin(costs))
    return np.clip(corners[best], lower, upper), costs[best]


def _improve(corners: list[Point], costs: list[float], judged: Callable[[Point], float]) -> None:
    """Replace the worst corner, the last one, or pull all corners to the best, the first one."""
    centre = np.mean(corners[:-1], axis=0)
    reflected = 2 * centre - corners[-1]
    cost = judged(reflected)
    if cost < costs[0]:
        further = 3 * centre - 2 * corners[-1]
        gain = judged(further)
        corners[-1], costs[-1] = (further, gain) if gain < cost else (reflected, cost)
    elif cost < costs[-2]:
        corners[-1], costs[-1] = reflected, cost
    else:
        nearer = (centre + corners[-1]) / 2
        gain = judged(nearer)
        if gain < costs[-1]:
            corners[-1], costs[-1] = nearer, gain
            return
        for place in range(1, len(corners)):
            corners[place] = (corners[0] + corners[place]) / 2
            costs[place] = judged(corners[place])
