"""How busy the links were."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from desim.record import LinkClass, Record


@dataclass(frozen=True, slots=True)
class LinkUse:
    """Utilisation of one link class in the measured step, as shares of its capacity."""

    link: LinkClass
    mean: float
    peak: float


def measured_window_ps(record: Record) -> tuple[int, int]:
    """Return the earliest start and the latest end of any rank's measured step."""
    windows = [rank_class.window_ps for rank_class in record.classes]
    return min(start for start, _ in windows), max(end for _, end in windows)


def busiest(record: Record) -> list[LinkUse]:
    """Return the use of every link class that carried anything, busiest (by mean) first."""
    window = measured_window_ps(record)
    uses = [_use(link, window) for link in record.links]
    used = [use for use in uses if use.peak > 0]
    return sorted(used, key=lambda use: (-use.mean, use.link.name))


def utilisation(link: LinkClass, edges_ps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean utilisation of a link between each two neighbouring edges."""
    if not len(link.time_ps):
        return np.zeros(len(edges_ps) - 1)
    time = np.append(link.time_ps, max(edges_ps[-1], link.time_ps[-1])).astype(np.float64)
    carried = np.append(0.0, np.cumsum(np.diff(time) * link.rate_bytes_per_s))
    at_edges = np.interp(edges_ps, time, carried)
    mean: NDArray[np.float64] = np.diff(at_edges) / np.diff(edges_ps) / link.capacity_bytes_per_s
    return mean


def _use(link: LinkClass, window_ps: tuple[int, int]) -> LinkUse:
    mean = utilisation(link, np.array(window_ps, np.float64))
    until = np.append(link.time_ps[1:], window_ps[1])
    inside = (until > window_ps[0]) & (link.time_ps < window_ps[1])
    peak = float(link.rate_bytes_per_s[inside].max(initial=0.0))
    return LinkUse(link, float(mean[0]), peak / link.capacity_bytes_per_s)
