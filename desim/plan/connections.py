"""One hardware queue between host and device: what is issued first starts first."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from desim.record import LANES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from desim.plan.program import Program


def in_issue_order(program: Program) -> Program:
    """Return the program as a device with one queue plays it (CUDA_DEVICE_MAX_CONNECTIONS=1).

    A task starts no sooner than any that the host issued before it, whatever their lanes: it also
    waits for all that those wait for, and for the task before each of them on its lane. Kernels of
    several lanes still run beside each other. A collective counts as started once its rank has come
    to it.
    """
    tasks, lanes = len(program), len(LANES)
    lane = program.lane.astype(np.int64)
    number = np.arange(tasks)
    waited = np.zeros((tasks, lanes), dtype=np.int64)
    rows = program.waits
    np.maximum.at(waited, (rows[:, 0], rows[:, 1]), rows[:, 2])
    place, before = _on_lanes(lane, lanes)
    waited[number, lane] = place
    ordered = np.maximum.accumulate(waited, axis=0)
    # What the task before on the lane waited for is done; so is that task itself.
    passed = np.where(before[:, None] >= 0, ordered[before], 0)
    known = np.maximum(waited, passed)
    known[number, lane] = ordered[number, lane]
    task, on = np.nonzero(ordered > known)
    more = np.stack([task, on, ordered[task, on]], axis=1)
    both = np.concatenate([rows, more])
    return replace(program, waits=both[np.argsort(both[:, 0], kind="stable")])


def _on_lanes(lane: NDArray[np.int64], lanes: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many tasks of its lane are before each task, and the last of them (-1: there is none)."""
    place = np.zeros(len(lane), dtype=np.int64)
    before = np.full(len(lane), -1, dtype=np.int64)
    for number in range(lanes):
        mine = np.flatnonzero(lane == number)
        place[mine] = np.arange(len(mine))
        before[mine[1:]] = mine[:-1]
    return place, before
