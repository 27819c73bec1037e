"""Templates: a stretch of a rank's program written once and placed many times.

A mark is a place on a lane: "this many of the lane's tasks are done". Lanes run their tasks in
order, so a dependency between lanes is a mark that must be reached (a CUDA event). Inside a
template marks count from its start; a mark that comes from outside is an `Input`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from desim.plan.tables import COMPUTE, LANE, SLOT, CommOp
from desim.record import LANES, PHASES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from desim.models.op import Comm, Op
    from desim.plan.tables import Tables

PHASE = {name: index for index, name in enumerate(PHASES)}


class Mark(NamedTuple):
    """`done` tasks of `lane` are done."""

    lane: int
    done: int


class Input(NamedTuple):
    """A mark that is filled in when the template is placed."""

    key: str


#: Compute as it stands when the template starts, with all that its first task waits for.
START = Mark(COMPUTE, 0)
#: Nothing to wait for.
NOTHING = Mark(LANE["dp"], 0)


@dataclass(frozen=True, slots=True)
class Template:
    """Columns of a stretch of program; see `Emitter` for what they mean."""

    lane: NDArray[np.int8]
    name: NDArray[np.int32]
    kind: NDArray[np.int16]
    phase: NDArray[np.int8]
    layer: NDArray[np.int32]
    op: NDArray[np.int32]
    comm: NDArray[np.int32]
    host_ps: NDArray[np.int64]
    lane_counts: tuple[int, ...]
    waits: NDArray[np.int64]
    """Rows (task, lane, count), in the order of tasks."""
    host_waits: NDArray[np.int64]
    """Rows (task, lane, count): the host waits before it issues the task."""
    inputs: tuple[tuple[int, str, bool], ...]
    """(task, key, whether the host waits)."""
    memory_task: NDArray[np.int64]
    memory_owner: NDArray[np.int16]
    memory_bytes: NDArray[np.float64]
    outputs: dict[str, tuple[Mark, ...]]
    first_compute: int
    """Number of the first compute task, -1 if there is none."""
    pending: tuple[Mark, ...]
    """Marks that the next compute task after the template has to wait for."""
    host_pending: tuple[Mark, ...]
    """Marks that the host has to wait for before it issues what follows."""
    entries: tuple[tuple[int, int], ...]
    """Tasks before the first compute task that need what the template starts from, with lanes."""
    seams: tuple[tuple[int, int], ...] = ()
    """(tasks, rows of memory) before each place at which another pass may go on (`joined`)."""
    strand: NDArray[np.int8] | None = None
    """Which of two micro-batches each task belongs to, where the template is of two passes."""

    def __len__(self) -> int:
        return len(self.lane)


class Emitter:
    """Writes the tasks of a template in the order in which the host issues them."""

    def __init__(
        self, tables: Tables, launch_ps: int, collective_launch_ps: int, group_launch_ps: int = 0
    ) -> None:
        self.tables = tables
        self._group_launch_ps = group_launch_ps
        self._launch_ps = launch_ps
        self._collective_launch_ps = collective_launch_ps
        self._rows: list[tuple[int, ...]] = []
        self._counts = [0] * len(LANES)
        self._waits: list[tuple[int, int, int]] = []
        self._host_waits: list[tuple[int, int, int]] = []
        self._inputs: list[tuple[int, str, bool]] = []
        self._entries: list[int] = []
        self._memory: list[tuple[int, int, float]] = []
        self._seams: list[tuple[int, int]] = []
        self._pending: list[Mark | Input] = []
        self._host_pending: list[Mark | Input] = []
        self.outputs: dict[str, tuple[Mark, ...]] = {}
        self.layer = -1
        self.phase = "forward"

    def now(self, lane: int = COMPUTE) -> Mark:
        """Mark after everything issued so far on `lane`."""
        return Mark(lane, self._counts[lane])

    def wait(self, *marks: Mark | Input) -> None:
        """Make the next compute task wait for `marks`."""
        self._pending.extend(marks)

    def pending(self) -> tuple[Mark, ...]:
        """Marks that stand for all that compute has done and that its next task waits for."""
        return (self.now(), *(mark for mark in self._pending if isinstance(mark, Mark)))

    def host_wait(self, *marks: Mark | Input) -> None:
        """Make the host wait for `marks` before it issues the next task."""
        self._host_pending.extend(marks)

    def synchronize(self) -> None:
        """Make the host wait until the device has finished all that was issued."""
        self._host_pending.extend(self.now(lane) for lane, n in enumerate(self._counts) if n)

    def kernel(self, op: Op) -> None:
        """Issue a kernel on the compute lane."""
        groups = op.groups
        host_ps = self._launch_ps if groups == 1 else groups * self._group_launch_ps
        self._task(COMPUTE, op.name, op.kind, self.tables.op(op), -1, host_ps, self._pending)
        self._pending = []

    def kernels(self, ops: Iterable[Op]) -> None:
        """Issue kernels one after the other."""
        for op in ops:
            self.kernel(op)

    def collective(
        self, comm: Comm, *after: Mark | Input, beside: bool = False, lane: str = ""
    ) -> Mark:
        """Issue a collective of a mesh group; it waits for `after`, else for compute so far."""
        name = comm.name or comm.collective
        return self.communicate(
            lane or comm.group,
            comm.group,
            comm.collective,
            comm.size_bytes,
            name,
            after or (self.now(),),
            beside=beside,
        )

    def message(
        self, slot: str, size_bytes: float, after: Sequence[Mark | Input], *, beside: bool
    ) -> Mark:
        """Issue one end of a message between stages on the lane of its slot."""
        return self.communicate(
            f"pp_{slot}",
            slot,
            "send_recv",
            size_bytes,
            slot.replace("_", " "),
            after,
            beside=beside,
        )

    def communicate(
        self,
        lane: str,
        slot: str,
        collective: str,
        size_bytes: float,
        name: str,
        after: Sequence[Mark | Input],
        *,
        beside: bool,
    ) -> Mark:
        """Issue a rank's part of a collective or message on `lane`; return the mark of its end."""
        number = self.tables.comm(CommOp(SLOT[slot], collective, round(size_bytes), beside))
        where = LANE[lane]
        # A push is a copy that the framework issues itself, not a collective of a library.
        host_ps = self._launch_ps if collective == "push" else self._collective_launch_ps
        self._task(where, name, collective, -1, number, host_ps, after)
        return Mark(where, self._counts[where])

    def _task(
        self,
        lane: int,
        name: str,
        kind: str,
        op: int,
        comm: int,
        host_ps: int,
        after: Sequence[Mark | Input],
    ) -> None:
        task = len(self._rows)
        for mark in after:
            if isinstance(mark, Input):
                self._inputs.append((task, mark.key, False))
            elif mark == START and lane != COMPUTE:
                self._entries.append(task)
            elif mark.done > 0 and mark.lane != lane:
                self._waits.append((task, mark.lane, mark.done))
        for mark in self._host_pending:
            if isinstance(mark, Input):
                self._inputs.append((task, mark.key, True))
            elif mark.done > 0:
                self._host_waits.append((task, mark.lane, mark.done))
        self._host_pending = []
        tables = self.tables
        self._rows.append(
            (
                lane,
                tables.name(name),
                tables.kind(kind),
                PHASE[self.phase],
                self.layer,
                op,
                comm,
                host_ps,
            )
        )
        self._counts[lane] += 1

    def memory(self, owner: str, num_bytes: float) -> None:
        """Allocate (or with a negative number free) device memory at this point of the program."""
        if num_bytes:
            self._memory.append((len(self._rows), self.tables.owner(owner), num_bytes))

    def seam(self) -> None:
        """Let another pass go on here, where this one is joined with it."""
        if self._rows and (not self._seams or self._seams[-1][0] < len(self._rows)):
            self._seams.append((len(self._rows), len(self._memory)))

    def output(self, key: str, *marks: Mark) -> None:
        """Name marks for what is placed later; by default all that compute has done and awaits."""
        self.outputs[key] = marks or self.pending()

    def finish(self, graph_launch_ps: int | None = None) -> Template:
        """Return what was written.

        With `graph_launch_ps` the host launches all of it at once, as a captured CUDA graph.
        """
        rows = np.array(self._rows, dtype=np.int64).reshape(-1, 8)
        if graph_launch_ps is not None:
            rows[:, 7] = 0
            rows[:1, 7] = graph_launch_ps
        compute = np.flatnonzero(rows[:, 0] == COMPUTE)
        memory = self._memory
        return Template(
            lane=rows[:, 0].astype(np.int8),
            name=rows[:, 1].astype(np.int32),
            kind=rows[:, 2].astype(np.int16),
            phase=rows[:, 3].astype(np.int8),
            layer=rows[:, 4].astype(np.int32),
            op=rows[:, 5].astype(np.int32),
            comm=rows[:, 6].astype(np.int32),
            host_ps=rows[:, 7].copy(),
            lane_counts=tuple(self._counts),
            waits=np.array(self._waits, dtype=np.int64).reshape(-1, 3),
            host_waits=np.array(self._host_waits, dtype=np.int64).reshape(-1, 3),
            inputs=tuple(self._inputs),
            memory_task=np.array([m[0] for m in memory], dtype=np.int64),
            memory_owner=np.array([m[1] for m in memory], dtype=np.int16),
            memory_bytes=np.array([m[2] for m in memory], dtype=np.float64),
            outputs=dict(self.outputs),
            first_compute=int(compute[0]) if len(compute) else -1,
            pending=_marks(self._pending),
            host_pending=_marks(self._host_pending),
            entries=tuple((task, self._rows[task][0]) for task in self._entries),
            seams=tuple(seam for seam in self._seams if seam[0] < len(self._rows)),
        )


def _marks(pending: list[Mark | Input]) -> tuple[Mark, ...]:
    assert all(isinstance(mark, Mark) for mark in pending), (
        "an input must be used where it is named"
    )
    return tuple(mark for mark in pending if isinstance(mark, Mark))
