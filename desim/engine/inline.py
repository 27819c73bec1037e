"""Collectives that nothing outside can touch, played as kernels: the same times for fewer events.

A collective is inlined where only this rank class takes part in it, its links are its own, it
starts after every kernel issued before it and the next kernel waits for it. Nothing computes beside
it then, so that it takes as long whatever else goes on, and the kernels before and after it become
one run with it. The engine plays them in a third of the events; every task has the same times.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from desim.plan.repeat import Position, Repeat
from desim.plan.tables import COMPUTE
from desim.record import LANES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from desim.engine.rank import Port
    from desim.plan.program import Program


def solo_ps(port: Port | None) -> int:
    """Duration, with nothing beside it, of a collective that a rank class has for itself; or -1."""
    if port is None or port[0].need > 1:
        return -1
    transfer = port[1]
    return (transfer.unhindered or transfer).fixed_ps


def inline(program: Program, ops: Mapping[int, int]) -> Program:
    """Put the exposed ones of some collectives on the compute lane.

    `ops` gives the op that stands for each collective (by number) there.
    """
    op = _stand_in(program, ops)
    inlined = _exposed(program, op >= 0)
    if not inlined.any():
        return program
    lane = np.where(inlined, np.int8(COMPUTE), program.lane)
    order = _Order(program, lane)
    joined = _joints(program, inlined, order)
    return replace(
        program,
        lane=lane,
        op=np.where(inlined, op, program.op).astype(np.int32),
        comm=np.where(inlined, -1, program.comm).astype(np.int32),
        waits=order.waits(np.concatenate([program.waits, joined])),
        host_waits=order.moved(program.host_waits),
        cuts=tuple(order.count(cut) for cut in program.cuts),
        repeats=tuple(order.repeat(repeat) for repeat in program.repeats),
    )


def _stand_in(program: Program, ops: Mapping[int, int]) -> NDArray[np.int64]:
    """Op that could stand for each task, or -1."""
    table = np.full(int(program.comm.max(initial=-1)) + 2, -1, dtype=np.int64)
    for comm, op in ops.items():
        if comm < len(table) - 1:
            table[comm] = op
    found: NDArray[np.int64] = table[program.comm]
    return found


def _exposed(program: Program, able: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which of the `able` collectives stand between the kernel before and the one after them."""
    computes = program.lane == COMPUTE
    gap = np.cumsum(computes) - computes
    total = int(computes.sum())
    tasks = np.flatnonzero(able & ~computes & (gap > 0) & (gap < total))
    position = _positions(program.lane)
    first = np.full(total + 1, -1, dtype=np.int64)
    last = np.full(total + 1, -1, dtype=np.int64)
    first[gap[tasks[::-1]]] = tasks[::-1]
    last[gap[tasks]] = tasks
    lanes = np.where(first >= 0, program.lane[first], -1)
    mixed = np.zeros(total + 1, dtype=bool)
    mixed[gap[tasks[program.lane[tasks] != lanes[gap[tasks]]]]] = True
    task, lane, count = program.waits.T
    opened = np.zeros(total + 1, dtype=bool)
    opens = (lane == COMPUTE) & (first[gap[task]] == task) & (count == gap[task])
    opened[gap[task[opens]]] = True
    closed = np.zeros(total + 1, dtype=bool)
    closes = computes[task] & (lane == lanes[gap[task]]) & (count > position[last[gap[task]]])
    closed[gap[task[closes]]] = True
    inlined = np.zeros(len(program), dtype=bool)
    inlined[tasks] = (opened & closed & ~mixed)[gap[tasks]]
    return inlined


def _positions(lane: NDArray[np.int8]) -> NDArray[np.int64]:
    """Position of every task on its lane."""
    position = np.zeros(len(lane), dtype=np.int64)
    for number in range(len(LANES)):
        here = np.flatnonzero(lane == number)
        position[here] = np.arange(len(here))
    return position


def _joints(program: Program, inlined: NDArray[np.bool_], order: _Order) -> NDArray[np.int64]:
    """Waits, in the old counts, that keep the order of a lane of which some tasks were inlined."""
    rows = [np.zeros((0, 3), dtype=np.int64)]
    for number in range(1, len(LANES)):
        tasks = order.tasks[number]
        at = np.flatnonzero(inlined[tasks[1:]] != inlined[tasks[:-1]]) + 1
        rows.append(np.stack([tasks[at], np.full(len(at), number), at], axis=1))
    return np.concatenate(rows)


class _Order:
    """Turns counts of the old lanes into counts of the new ones."""

    def __init__(self, program: Program, lane: NDArray[np.int8]) -> None:
        self._lane = lane
        self._position = _positions(lane)
        self.tasks = [np.flatnonzero(program.lane == number) for number in range(len(LANES))]
        self._base = np.cumsum([0, *(len(tasks) for tasks in self.tasks)])
        self._flat = np.concatenate(self.tasks)

    def moved(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows (task, lane, count) in new counts."""
        awaited = self._flat[self._base[rows[:, 1]] + rows[:, 2] - 1]
        return np.stack([rows[:, 0], self._lane[awaited], self._position[awaited] + 1], axis=1)

    def waits(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows in new counts and task order, without those that a lane's order implies."""
        moved = self.moved(rows)
        moved = moved[moved[:, 1] != self._lane[moved[:, 0]]]
        order = np.argsort(moved[:, 0], kind="stable")
        return np.take(moved, order, axis=0)

    def count(self, kernels: int) -> int:
        """New count of the compute lane for an old one."""
        return int(self._position[self.tasks[COMPUTE][kernels - 1]]) + 1 if kernels else 0

    def repeat(self, repeat: Repeat) -> Repeat:
        """A repeat in new counts."""
        first, then = self._issued(repeat.task(0)), self._issued(repeat.task(1))
        period = tuple(b - a for a, b in zip(first, then, strict=True))
        return Repeat(
            Position(repeat.first.task, first),
            Position(repeat.period.task, period),
            repeat.periods,
        )

    def _issued(self, task: int) -> tuple[int, ...]:
        """Tasks by new lane that are issued before `task`."""
        return tuple(np.bincount(self._lane[:task], minlength=len(LANES)).tolist())
