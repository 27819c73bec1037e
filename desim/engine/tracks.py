"""Tracks: a program's lanes cut into segments that the engine plays one at a time.

A communication lane has a segment per task. On the compute lane a segment is a run of kernels that
nothing outside can interact with except by changing their speed: it is broken where a kernel waits
for another lane, where another lane or the host waits for a kernel, and where the host stops before
it issues a kernel. Its kernels get their own times when the record is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from desim.plan.tables import COMPUTE
from desim.record import LANES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from desim.plan.program import Program


@dataclass(frozen=True, slots=True)
class Track:
    """One lane of a program, as lists that are fast to index.

    Segment i covers the lane's tasks `first[i]` to `first[i + 1]` and waits for `wait_count[i]`
    tasks of lane `wait_lane[i]` (-1: for nothing) and for those of `more[i]`.
    """

    number: int
    first: list[int]
    wait_lane: list[int]
    wait_count: list[int]
    more: dict[int, tuple[tuple[int, int], ...]]
    first_task: list[int]
    comm: list[int]
    """Collective of every task; none on the compute lane."""
    tasks: NDArray[np.int64]
    """Task number of every task of the lane."""


@dataclass(frozen=True, slots=True)
class Score:
    """A program as the engine reads it."""

    program: Program
    tracks: tuple[Track, ...]
    issue_ps: list[int]
    """Host time from the start of the program until each task is issued, without host waits."""
    host_waits: list[tuple[int, int, int]]
    """(task, lane, count) in task order, and a last one that is never reached."""
    task_of_kernel: list[int]


def make_score(program: Program, *, whole: bool = True) -> Score:
    """Cut a program into tracks; without `whole` every kernel is a segment of its own.

    Both play the same times: runs of kernels only save events.
    """
    lanes = [np.flatnonzero(program.lane == lane) for lane in range(len(LANES))]
    position = np.zeros(len(program), dtype=np.int64)
    for tasks in lanes:
        position[tasks] = np.arange(len(tasks))
    waits = program.waits
    host = program.host_waits
    kernels = len(lanes[COMPUTE])
    breaks = _compute_breaks(program, position, kernels) if whole else np.arange(kernels + 1)
    tracks = []
    for lane, tasks in enumerate(lanes):
        first = breaks if lane == COMPUTE else np.arange(len(tasks) + 1)
        rows = waits[program.lane[waits[:, 0]] == lane]
        tracks.append(_track(program, lane, tasks, first, rows, position))
    never = len(program)
    return Score(
        program=program,
        tracks=tuple(tracks),
        issue_ps=np.cumsum(program.host_ps).tolist(),
        host_waits=[*map(tuple, host.tolist()), (never, 0, never + 1)],
        task_of_kernel=lanes[COMPUTE].tolist(),
    )


def _compute_breaks(
    program: Program, position: NDArray[np.int64], kernels: int
) -> NDArray[np.int64]:
    """Positions on the compute lane at which a segment starts, and the end."""
    waits, host = program.waits, program.host_waits
    waiting = waits[program.lane[waits[:, 0]] == COMPUTE, 0]
    awaited = waits[waits[:, 1] == COMPUTE, 2]
    host_awaited = host[host[:, 1] == COMPUTE, 2]
    # The host stops before a task; the next kernel issued from there on starts a segment.
    stops = np.searchsorted(np.flatnonzero(program.lane == COMPUTE), host[:, 0])
    periods = [
        repeat.count(COMPUTE, i) for repeat in program.repeats for i in range(repeat.periods)
    ]
    cuts = np.array([*program.cuts, *periods, 0, kernels])
    broken = np.zeros(kernels + 1, dtype=bool)
    for marks in (position[waiting], awaited, host_awaited, stops, cuts):
        broken[marks] = True
    return np.flatnonzero(broken)


def _track(
    program: Program,
    lane: int,
    tasks: NDArray[np.int64],
    first: NDArray[np.int64],
    rows: NDArray[np.int64],
    position: NDArray[np.int64],
) -> Track:
    number = len(first) - 1 if len(tasks) else 0
    wait_lane = np.full(number, -1, dtype=np.int64)
    wait_count = np.zeros(number, dtype=np.int64)
    more: dict[int, tuple[tuple[int, int], ...]] = {}
    if len(rows):
        segment = np.searchsorted(first, position[rows[:, 0]], side="right") - 1
        leading, at, count = np.unique(segment, return_index=True, return_counts=True)
        wait_lane[leading] = rows[at, 1]
        wait_count[leading] = rows[at, 2]
        marks = list(map(tuple, rows[:, 1:].tolist()))
        several = count > 1
        places = zip(leading[several], at[several] + 1, (at + count)[several], strict=True)
        for first_of, begin, end in places:
            more[int(first_of)] = tuple(marks[begin:end])
    return Track(
        number=number,
        first=first.tolist(),
        wait_lane=wait_lane.tolist(),
        wait_count=wait_count.tolist(),
        more=more,
        first_task=tasks[first[:-1]].tolist() if number else [],
        comm=program.comm[tasks].tolist() if lane != COMPUTE else [],
        tasks=tasks,
    )
