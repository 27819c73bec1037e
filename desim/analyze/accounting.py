"""Where the time of one rank went: every picosecond of the window in exactly one category.

`CATEGORIES` are in their order of precedence. A category's time is what it adds to
the union of the intervals of all categories before it, so the sum is exact by construction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from desim.record import GROUP_OF_LANE, LANES, PHASES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from desim.record import Spans

    Times = NDArray[np.int64]

#: Lane of a communication task -> category of the time in which it is exposed.
EXPOSED = {
    lane: "exposed_" + ("host" if lane in ("h2d", "d2h") else GROUP_OF_LANE[lane])
    for lane in LANES
    if lane != "compute"
}
#: Categories of time, in the order in which they are shown.
CATEGORIES = (
    "compute",
    "contention",
    *dict.fromkeys(EXPOSED.values()),
    "waiting",
    "bubble",
    "optimizer",
    "launch",
    "other",
)
_COMPUTE = LANES.index("compute")
_PIPELINE = [index for index, lane in enumerate(LANES) if lane.startswith("pp")]
_OPTIMIZER = PHASES.index("optimizer")


def account(
    spans: Spans,
    window_ps: tuple[int, int],
    across_stages: Collection[int] = (),
    scheduled_ps: Times | None = None,
) -> dict[str, int]:
    """Split the window of one rank into `CATEGORIES`, in picoseconds that sum to the window.

    Spans that cross an edge of the window are cut. Waiting for a message, or in a group that has
    members on several pipeline stages (`across_stages`: such groups' indices), is waiting for the
    schedule: a bubble. `scheduled_ps` says how long each span waits in the same job without
    disturbances; what goes beyond it is not the schedule's and counts as waiting.
    """
    result = dict.fromkeys(CATEGORIES, 0)
    begin, finish = window_ps
    running = spans.lane == _COMPUTE
    length, stretch = _kernel_times(spans, running, window_ps)
    optimizing = spans.phase[running] == _OPTIMIZER
    result["contention"] = int(stretch.sum())
    result["optimizer"] = int((length - stretch)[optimizing].sum())
    result["compute"] = int((length - stretch)[~optimizing].sum())

    start, end = spans.start_ps.clip(begin, finish), spans.end_ps.clip(begin, finish)
    ready = spans.ready_ps.clip(begin, finish)
    covered = merge(start[running], end[running])
    total = _measure(covered)
    planned = np.minimum(
        start, ready + (scheduled_ps if scheduled_ps is not None else start - ready)
    )
    for category, begins, ends in _idle_causes(spans, ready, planned, start, end, across_stages):
        if len(begins):
            covered = merge(np.append(covered[0], begins), np.append(covered[1], ends))
            before, total = total, _measure(covered)
            result[category] += total - before
    for category, idle_ps in _split_gaps(spans, covered, window_ps).items():
        result[category] += idle_ps
    return result


def _kernel_times(
    spans: Spans, running: NDArray[np.bool_], window_ps: tuple[int, int]
) -> tuple[Times, Times]:
    """Return the time in the window of every kernel, and the part of it that is stretch.

    A kernel that an edge cuts keeps the same share of stretch.
    """
    start, end = spans.start_ps[running], spans.end_ps[running]
    length = end.clip(*window_ps) - start.clip(*window_ps)
    stretch = np.maximum(end - start - spans.alone_ps[running], 0)
    cut = length < end - start
    if cut.any():
        kept = length[cut] / (end - start)[cut]
        stretch[cut] = np.minimum((stretch[cut] * kept).astype(np.int64), length[cut])
    return length, stretch


def _idle_causes(
    spans: Spans,
    ready: Times,
    planned: Times,
    start: Times,
    end: Times,
    across_stages: Collection[int],
) -> Iterable[tuple[str, Times, Times]]:
    """Yield (category, starts, ends) in order of precedence after computing."""
    for lane, category in EXPOSED.items():
        chosen = spans.lane == LANES.index(lane)
        yield category, start[chosen], end[chosen]
    late = (spans.lane != _COMPUTE) & (start > ready)
    scheduled = np.isin(spans.lane, _PIPELINE)
    if across_stages:
        scheduled |= np.isin(spans.group, list(across_stages))
    for category, begins, ends in (
        ("waiting", np.where(scheduled, planned, ready), start),
        ("bubble", ready, np.where(scheduled, planned, ready)),
    ):
        yield category, begins[late], ends[late]


def _split_gaps(
    spans: Spans, covered: tuple[Times, Times], window_ps: tuple[int, int]
) -> dict[str, int]:
    """Attribute the time in which nothing ran or waited, by what ended it.

    A task that became ready the moment the host issued it ended a launch gap. In steady state the
    gap at the window's end is ended by what starts the window.
    """
    begins = np.append(window_ps[0], covered[1])
    ends = np.append(covered[0], window_ps[1])
    gaps = ends - begins
    bound = spans.issue_ps == spans.ready_ps
    launched = np.isin(ends, spans.ready_ps[bound])
    kernels = np.flatnonzero((spans.lane == _COMPUTE) & (spans.start_ps >= window_ps[0]))
    launched[-1] = bool(len(kernels)) and bool(bound[kernels[0]])
    tail = 0 if launched[-1] else int(gaps[-1])
    launch = int(gaps[launched].sum())
    pipelined = bool(np.isin(spans.lane, _PIPELINE).any())
    rest = int(gaps.sum()) - launch - tail
    return {
        "launch": launch,
        "bubble": tail if pipelined else 0,
        "other": rest + (0 if pipelined else tail),
    }


def merge(starts: Times, ends: Times) -> tuple[Times, Times]:
    """Return the union of intervals as sorted disjoint intervals; empty ones are dropped."""
    kept = ends > starts
    starts, ends = starts[kept], ends[kept]
    if not len(starts):
        return starts, ends
    order = np.argsort(starts, kind="stable")
    starts, ends = starts[order], np.maximum.accumulate(ends[order])
    first = np.flatnonzero(np.append(True, starts[1:] > ends[:-1]))
    last = np.append(first[1:], len(starts)) - 1
    return starts[first], ends[last]


def _measure(intervals: tuple[Times, Times]) -> int:
    return int((intervals[1] - intervals[0]).sum())


def compute_by_kind(
    spans: Spans, window_ps: tuple[int, int], kinds: Sequence[str]
) -> dict[str, int]:
    """Return the picoseconds of kernels by kind, without contention; zeros are left out.

    They sum to `compute` plus `optimizer` of `account`.
    """
    running = spans.lane == _COMPUTE
    length, stretch = _kernel_times(spans, running, window_ps)
    # Sums stay below 2**53 ps = 2.5 hours, so that adding in floats is exact.
    times = np.bincount(spans.kind[running], weights=length - stretch, minlength=len(kinds))
    return {kind: int(time) for kind, time in zip(kinds, times, strict=True) if time}


def lane_busy(spans: Spans, window_ps: tuple[int, int]) -> dict[str, int]:
    """Return the picoseconds in which each lane ran a task, hidden or not; idle lanes left out."""
    length = spans.end_ps.clip(*window_ps) - spans.start_ps.clip(*window_ps)
    times = np.bincount(spans.lane, weights=length, minlength=len(LANES))
    return {lane: int(time) for lane, time in zip(LANES, times, strict=True) if time}


def mean_share(accounts: Iterable[tuple[int, Mapping[str, int]]]) -> dict[str, float]:
    """Return the mean over all ranks of each category's share; `accounts` are (ranks, account)."""
    total = dict.fromkeys(CATEGORIES, 0)
    for count, categories in accounts:
        for category, time_ps in categories.items():
            total[category] += count * time_ps
    whole = sum(total.values())
    return {category: time_ps / whole if whole else 0.0 for category, time_ps in total.items()}
