"""Programs: all tasks of one rank in the order in which its host issues them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from desim.plan.repeat import Position
from desim.plan.tables import COMPUTE
from desim.plan.template import Mark
from desim.record import LANES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from desim.plan.repeat import Repeat
    from desim.plan.template import Template


@dataclass(frozen=True, slots=True)
class Program:
    """The tasks of one rank, as columns in issue order.

    `op` and `comm` index the plan's tables (-1: not of that kind). `waits` has rows (task, lane,
    count): the task starts when `count` tasks of `lane` are done. `host_waits` has the same rows
    for the host, which does not issue the task before. `cuts` are counts of the compute lane at
    which a step ends and the next begins; the first is the end of the warm-up.
    """

    lane: NDArray[np.int8]
    name: NDArray[np.int32]
    kind: NDArray[np.int16]
    phase: NDArray[np.int8]
    layer: NDArray[np.int32]
    micro_batch: NDArray[np.int32]
    op: NDArray[np.int32]
    comm: NDArray[np.int32]
    host_ps: NDArray[np.int64]
    waits: NDArray[np.int64]
    host_waits: NDArray[np.int64]
    memory_task: NDArray[np.int64]
    memory_owner: NDArray[np.int16]
    memory_bytes: NDArray[np.float64]
    cuts: tuple[int, ...]
    cut_tasks: tuple[int, ...]
    """Tasks issued before each cut."""
    repeats: tuple[Repeat, ...] = ()
    """Of each step, the periods that repeat, where some were left out."""
    left_out: int = 0
    """Periods left out of every step."""

    def __len__(self) -> int:
        return len(self.lane)


class ProgramBuilder:
    """Places templates one after the other and connects them."""

    def __init__(self) -> None:
        self._placed: list[tuple[Template, int, int, tuple[int, ...], int]] = []
        self._tasks = 0
        self._counts = [0] * len(LANES)
        self._waits: list[tuple[int, int, int]] = []
        self._host_waits: list[tuple[int, int, int]] = []
        self._pending: list[Mark] = []
        self._host_pending: list[Mark] = []
        self._cuts: list[int] = []
        self._cut_tasks: list[int] = []

    def now(self, lane: int = COMPUTE) -> Mark:
        """Mark after everything placed so far on `lane`."""
        return Mark(lane, self._counts[lane])

    @property
    def position(self) -> Position:
        """The place after everything placed so far."""
        return Position(self._tasks, tuple(self._counts))

    def wait(self, marks: Iterable[Mark]) -> None:
        """Make the next compute task placed wait for `marks`."""
        self._pending.extend(marks)

    def host_wait(self, marks: Iterable[Mark]) -> None:
        """Make the host wait for `marks` before it issues the next task placed."""
        self._host_pending.extend(marks)

    def synchronize(self) -> None:
        """Make the host wait until the device has finished all that was issued."""
        self._host_pending.extend(Mark(lane, n) for lane, n in enumerate(self._counts) if n)

    def cut(self) -> None:
        """End a step here: what follows belongs to the next one."""
        self._cuts.append(self._counts[COMPUTE])
        self._cut_tasks.append(self._tasks)

    def place(
        self,
        template: Template,
        micro_batch: int = -1,
        inputs: Mapping[str, Sequence[Mark]] | None = None,
        layer_offset: int = 0,
    ) -> dict[str, tuple[Mark, ...]]:
        """Append `template`; return its outputs as marks of the whole program."""
        base, counts = self._tasks, tuple(self._counts)
        for task, key, host in template.inputs:
            target = self._host_waits if host else self._waits
            lane = int(template.lane[task])
            given = (inputs or {})[key]
            target.extend((base + task, *m) for m in given if m.done and (host or m.lane != lane))
        if self._host_pending and len(template):
            self._host_waits.extend((base, *mark) for mark in self._host_pending if mark.done)
            self._host_pending = []
        for task in template.entries:
            rows = [self.now(), *self._pending]
            lane = int(template.lane[task])
            self._waits.extend((base + task, *m) for m in rows if m.done and m.lane != lane)
        if self._pending and template.first_compute >= 0:
            first = base + template.first_compute
            self._waits.extend((first, *m) for m in self._pending if m.done and m.lane != COMPUTE)
            self._pending = []
        self._placed.append((template, micro_batch, base, counts, layer_offset))
        self._tasks += len(template)
        self._counts = [a + b for a, b in zip(self._counts, template.lane_counts, strict=True)]
        shift = [Mark(m.lane, m.done + counts[m.lane]) for m in template.pending]
        self._pending.extend(shift)
        self._host_pending.extend(
            Mark(m.lane, m.done + counts[m.lane]) for m in template.host_pending
        )
        return {
            key: tuple(Mark(m.lane, m.done + counts[m.lane]) for m in marks)
            for key, marks in template.outputs.items()
        }

    def build(self) -> Program:
        """Return the program."""
        placed = self._placed
        templates = [p[0] for p in placed]
        micro_batches = np.array([p[1] for p in placed], dtype=np.int32)
        lengths = np.array([len(t) for t in templates], dtype=np.int64)
        return Program(
            lane=np.concatenate([t.lane for t in templates]),
            name=np.concatenate([t.name for t in templates]),
            kind=np.concatenate([t.kind for t in templates]),
            phase=np.concatenate([t.phase for t in templates]),
            layer=self._layers(templates, lengths),
            micro_batch=np.repeat(micro_batches, lengths),
            op=np.concatenate([t.op for t in templates]),
            comm=np.concatenate([t.comm for t in templates]),
            host_ps=np.concatenate([t.host_ps for t in templates]),
            waits=self._rows([t.waits for t in templates], self._waits),
            host_waits=self._rows([t.host_waits for t in templates], self._host_waits),
            memory_task=np.concatenate([t.memory_task for t in templates])
            + np.repeat([p[2] for p in placed], [len(t.memory_task) for t in templates]),
            memory_owner=np.concatenate([t.memory_owner for t in templates]),
            memory_bytes=np.concatenate([t.memory_bytes for t in templates]),
            cuts=tuple(self._cuts),
            cut_tasks=tuple(self._cut_tasks),
        )

    def _layers(self, templates: list[Template], lengths: NDArray[np.int64]) -> NDArray[np.int32]:
        layer = np.concatenate([t.layer for t in templates])
        offset = np.repeat(np.array([p[4] for p in self._placed], dtype=np.int32), lengths)
        return np.where(layer >= 0, layer + offset, layer).astype(np.int32)

    def _rows(
        self, parts: list[NDArray[np.int64]], extra: list[tuple[int, int, int]]
    ) -> NDArray[np.int64]:
        """Join wait rows, moved to where their templates were placed, in task order."""
        lengths = [len(part) for part in parts]
        rows = np.concatenate([*parts, np.array(extra, dtype=np.int64).reshape(-1, 3)])
        inside = int(sum(lengths))
        index = np.repeat(np.arange(len(parts)), lengths)
        bases = np.array([p[2] for p in self._placed], dtype=np.int64)
        counts = np.array([p[3] for p in self._placed], dtype=np.int64)
        rows[:inside, 0] += bases[index]
        rows[:inside, 2] += counts[index, rows[:inside, 1]]
        return rows[np.argsort(rows[:, 0], kind="stable")]
