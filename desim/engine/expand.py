"""From the compact logs of a rank to the times of every task."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from desim.plan.tables import COMPUTE
from desim.record import LANES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from desim.engine.rank import Rank

Times = tuple["NDArray[np.int64]", "NDArray[np.int64]"]


def kernel_times(rank: Rank) -> Times:
    """Start and end of every kernel of a rank, from the pieces in which they ran.

    A piece (time, kernel, left, load) says that `kernel` runs from `time` for `left` more (-1: it
    starts afresh) and that those after it follow at once under the same load, until the next piece.
    """
    pieces = np.array(rank.device.pieces, dtype=np.int64).reshape(-1, 4)
    number = rank.tracks[COMPUTE].first[-1] if rank.tracks[COMPUTE].number else 0
    start, end = np.zeros(number, np.int64), np.zeros(number, np.int64)
    time, kernel, left, load = pieces.T
    timing = rank.device.timing
    lengths = np.array([timing.durations(n) for n in range(timing.loads)], dtype=np.int64)
    sums = np.zeros((timing.loads, number + 1), dtype=np.int64)
    np.cumsum(lengths, axis=1, out=sums[:, 1:])
    begun = sums[load, kernel]
    whole = sums[load, kernel + 1] - begun
    fresh = left < 0
    first_end = time + np.where(fresh, whole, left)
    start[kernel[fresh]] = time[fresh]
    following = np.append(kernel[1:], number)
    # A piece covers its own kernel and those after it up to the next piece's kernel, whose end
    # (and, if it starts afresh, start) the next piece overwrites.
    count = np.maximum(following - kernel, 0)
    piece = np.repeat(np.arange(len(pieces)), count)
    step = np.arange(len(piece)) - np.repeat(np.cumsum(count) - count, count) + 1
    k = kernel[piece] + step
    inside = k < number
    piece, k = piece[inside], k[inside]
    base = first_end[piece] - sums[load[piece], kernel[piece] + 1]
    later = base + sums[load[piece], k]
    # The next piece's own kernel gets its start from here only if it was already running then:
    # if its first piece does not start it afresh.
    opening = np.append(True, kernel[1:] != kernel[:-1])
    continued = np.zeros(number, dtype=bool)
    continued[kernel[opening & ~fresh]] = True
    own = (k == following[piece]) & ~continued[k]
    start[k[~own]] = later[~own]
    end[k] = base + sums[load[piece], k + 1]
    end[kernel] = first_end
    return start, end


def end_of_kernel(rank: Rank, kernel: int) -> int:
    """End of one kernel: that of the last piece that begins at or before it."""
    pieces = np.array(rank.device.pieces, dtype=np.int64).reshape(-1, 4)
    time, first, left, load = pieces[np.searchsorted(pieces[:, 1], kernel, side="right") - 1]
    lengths = rank.device.timing.durations(int(load), int(first), kernel + 1)
    return int(time + (lengths[0] if left < 0 else left) + lengths[1:].sum())


def issue_times(rank: Rank) -> NDArray[np.int64]:
    """When the host issued every task: its own pace, held back where it waited."""
    issue = np.array(rank.score.issue_ps, dtype=np.int64)
    task, shift, _ = np.array([0, 0, 0, *rank.host.log], dtype=np.int64).reshape(-1, 3).T
    return issue + shift[np.searchsorted(task, np.arange(len(issue)), side="right") - 1]


def tasks_at(lanes: Sequence[NDArray[np.int64]], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Task whose end reaches the mark of each row (task, lane, count); `lanes` are their tasks."""
    result = np.empty(len(rows), dtype=np.int64)
    for lane, tasks in enumerate(lanes):
        here = rows[:, 1] == lane
        result[here] = tasks[rows[here, 2] - 1]
    return result


def host_releases(rank: Rank) -> Times:
    """When the host last had to wait before it issued each task, and for the end of which task."""
    total = len(rank.score.program)
    released, releaser = np.zeros(total, np.int64), np.full(total, -1, dtype=np.int64)
    log = np.array(rank.host.log, dtype=np.int64).reshape(-1, 3)
    if not len(log):
        return released, releaser
    issue = np.array([0, *rank.score.issue_ps], dtype=np.int64)
    held = np.append(True, np.diff(log[:, 1]) > 0) & (log[:, 1] > 0)
    task, shift, wait = log[held].T
    if not len(task):
        return released, releaser
    source = tasks_at([track.tasks for track in rank.tracks], rank.score.program.host_waits[wait])
    at = np.searchsorted(task, np.arange(total), side="right") - 1
    known = at >= 0
    released[known] = (shift + issue[task])[at[known]]
    releaser[known] = source[at[known]]
    return released, releaser


def task_starts(rank: Rank) -> NDArray[np.int64]:
    """When every task started; a collective when it arrived at its rendezvous."""
    starts = np.zeros(len(rank.score.program), dtype=np.int64)
    starts[rank.tracks[COMPUTE].tasks] = kernel_times(rank)[0]
    for lane in range(1, len(LANES)):
        log = np.array(rank.logs[lane], dtype=np.int64).reshape(-1, 3)
        starts[rank.tracks[lane].tasks] = log[:, 0]
    return starts
