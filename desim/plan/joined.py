"""Two passes as one: their kernels take turns, so that each computes while the other communicates.

A pass can be left at its seams: where it waits for an exchange of its experts, and between the
halves of a block without one. At each of them the other pass goes on. DeepSeek-AI 2024,
arXiv:2412.19437, section 3.2.1, figure 4 (a forward and a backward chunk as one); Megatron-LM's
`--overlap-moe-expert-parallel-comm` (core/models/common/model_chunk_schedule_plan.py).
"""

from __future__ import annotations

from dataclasses import replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from desim.plan.tables import COMPUTE
from desim.plan.template import Mark
from desim.record import LANES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from desim.plan.tables import Tables
    from desim.plan.template import Template

_COLUMNS = ("lane", "name", "kind", "phase", "layer", "op", "comm", "host_ps")


class _Segment(NamedTuple):
    """What one of the two passes (strand 0 or 1) does between two seams: tasks, memory rows."""

    strand: int
    tasks: slice
    memory: slice


def joined(leading: Template, other: Template, tables: Tables) -> Template:
    """Return both templates as one whose tasks take turns at their seams.

    `leading` goes first. Each keeps its order and waits for its own tasks alone; on every lane the
    tasks of both follow each other in the order of issue. What communicates may now run beside
    what the other computes, which costs it bandwidth.
    """
    strands = (leading, other)
    order = list(_in_turns(leading, other))
    at = _places(strands, order)
    of = np.zeros(len(leading) + len(other), dtype=np.int8)
    of[at[1]] = 1
    columns: dict[str, NDArray[Any]] = {name: _merged(strands, name, at) for name in _COLUMNS}
    moves = [_Moves(template, at[n], columns["lane"]) for n, template in enumerate(strands)]
    columns["comm"] = _beside(columns["comm"], tables)
    compute = np.flatnonzero(columns["lane"] == COMPUTE)
    return replace(
        leading,
        **columns,
        strand=of,
        lane_counts=tuple(np.bincount(columns["lane"], minlength=len(LANES)).tolist()),
        waits=_by_task([move.rows(move.template.waits) for move in moves]),
        host_waits=_by_task([move.rows(move.template.host_waits) for move in moves]),
        inputs=tuple(row for move in moves for row in move.inputs),
        entries=tuple(row for move in moves for row in move.entries),
        outputs={key: move.marks(m) for move in moves for key, m in move.template.outputs.items()},
        pending=tuple(mark for move in moves for mark in move.marks(move.template.pending)),
        host_pending=tuple(
            mark for move in moves for mark in move.marks(move.template.host_pending)
        ),
        first_compute=int(compute[0]) if len(compute) else -1,
        seams=(),
        **_memory(strands, order),
    )


def _in_turns(leading: Template, other: Template) -> Iterator[_Segment]:
    for pair in zip_longest(_segments(leading, 0), _segments(other, 1)):
        yield from (segment for segment in pair if segment is not None)


def _segments(template: Template, strand: int) -> list[_Segment]:
    ends = [*template.seams, (len(template), len(template.memory_task))]
    begins = [(0, 0), *template.seams]
    return [
        _Segment(strand, slice(task, task_end), slice(row, row_end))
        for (task, row), (task_end, row_end) in zip(begins, ends, strict=True)
    ]


def _places(
    strands: tuple[Template, Template], order: Iterable[_Segment]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The place of every task of each strand among those of both."""
    at = tuple(np.zeros(len(template), dtype=np.int64) for template in strands)
    placed = 0
    for strand, tasks, _ in order:
        length = tasks.stop - tasks.start
        at[strand][tasks] = placed + np.arange(length)
        placed += length
    return at[0], at[1]


def _merged(
    strands: tuple[Template, Template],
    name: str,
    at: tuple[NDArray[np.int64], NDArray[np.int64]],
) -> NDArray[Any]:
    first, second = (getattr(template, name) for template in strands)
    column: NDArray[Any] = np.zeros(len(first) + len(second), dtype=first.dtype)
    column[at[0]], column[at[1]] = first, second
    return column


def _by_task(rows: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Rows (task, lane, count) of both in the order of tasks."""
    both = np.concatenate(rows)
    return np.take(both, np.argsort(both[:, 0], kind="stable"), axis=0)


def _beside(comm: NDArray[np.int32], tables: Tables) -> NDArray[np.int32]:
    """Collectives as they are where something may be computed beside them."""
    known = list(tables.comms)
    changed = {
        number: tables.comm(known[number]._replace(beside=True))
        for number in np.unique(comm[comm >= 0]).tolist()
    }
    return np.array([changed.get(n, n) for n in comm.tolist()], dtype=comm.dtype)


def _memory(
    strands: tuple[Template, Template], order: Iterable[_Segment]
) -> dict[str, NDArray[Any]]:
    """What is allocated and freed, in the order of issue."""
    rows: dict[str, list[NDArray[Any]]] = {}
    placed = 0
    for strand, tasks, memory in order:
        template = strands[strand]
        moved = template.memory_task[memory] - tasks.start + placed
        rows.setdefault("memory_task", []).append(moved)
        for name in ("memory_owner", "memory_bytes"):
            rows.setdefault(name, []).append(getattr(template, name)[memory])
        placed += tasks.stop - tasks.start
    return {name: np.concatenate(parts) for name, parts in rows.items()}


class _Moves:
    """Turns tasks and marks of one strand into those of both together."""

    def __init__(self, template: Template, at: NDArray[np.int64], lane: NDArray[np.int8]) -> None:
        self.template = template
        self._at = at
        self._count = np.zeros((len(LANES), len(template) + 1), dtype=np.int64)
        for number in range(len(LANES)):
            done = np.cumsum(lane == number)
            own = done[at[template.lane == number]]
            self._count[number, 1 : len(own) + 1] = own

    def rows(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows (task, lane, count): the count-th task of this strand's, among all of the lane."""
        task, lane, count = rows.T
        return np.stack([self._at[task], lane, self._count[lane, count]], axis=1)

    def marks(self, marks: Iterable[Mark]) -> tuple[Mark, ...]:
        """Marks of this strand."""
        return tuple(Mark(lane, int(self._count[lane, done])) for lane, done in marks)

    @property
    def inputs(self) -> list[tuple[int, str, bool]]:
        """Marks that come from outside, with the tasks that wait for them."""
        return [(int(self._at[task]), key, host) for task, key, host in self.template.inputs]

    @property
    def entries(self) -> list[tuple[int, int]]:
        """Tasks that need what both start from."""
        return [(int(self._at[task]), lane) for task, lane in self.template.entries]
