"""Programs: all tasks of one rank in the order in which its host issues them."""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import add
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

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
    placements: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 3), np.int64))
    """Rows (first task, end, number of the template): stretches of the program that are equal where
    the number is."""

    def __len__(self) -> int:
        return len(self.lane)


class Strand(NamedTuple):
    """The micro-batch of a pass, and the layer of the model at which its chunk begins."""

    micro_batch: int
    layer_offset: int


class ProgramBuilder:
    """Places templates one after the other and connects them."""

    def __init__(self) -> None:
        self._placed: list[_Placement] = []
        self._tasks = 0
        self._counts = (0,) * len(LANES)
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
        return Position(self._tasks, self._counts)

    def wait(self, marks: Iterable[Mark]) -> None:
        """Make the next compute task placed wait for `marks`."""
        self._pending.extend(marks)

    def host_wait(self, marks: Iterable[Mark]) -> None:
        """Make the host wait for `marks` before it issues the next task placed."""
        self._host_pending.extend(marks)

    def synchronize(self) -> None:
        """Make the host wait until the device has finished all that was issued."""
        self._host_pending.extend([Mark(lane, n) for lane, n in enumerate(self._counts) if n])

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
        other: Strand | None = None,
    ) -> dict[str, tuple[Mark, ...]]:
        """Append `template`; return its outputs as marks of the whole program.

        `other` is the second strand of joined passes.
        """
        base, counts = self._tasks, self._counts
        for task, key, host in template.inputs:
            target = self._host_waits if host else self._waits
            lane = int(template.lane[task])
            given = (inputs or {})[key]
            target.extend((base + task, *m) for m in given if m.done and (host or m.lane != lane))
        tasks = len(template.lane)
        if self._host_pending and tasks:
            self._host_waits.extend([(base, *mark) for mark in self._host_pending if mark.done])
            self._host_pending = []
        pending = self._pending
        for task, lane in template.entries:
            rows = [Mark(COMPUTE, counts[COMPUTE]), *pending]
            self._waits.extend([(base + task, *m) for m in rows if m.done and m.lane != lane])
        if pending and template.first_compute >= 0:
            first = base + template.first_compute
            self._waits.extend([(first, *m) for m in pending if m.done and m.lane != COMPUTE])
            self._pending = []
        own = Strand(micro_batch, layer_offset)
        self._placed.append(_Placement(template, own, other or own))
        self._tasks = base + tasks
        self._counts = tuple(map(add, counts, template.lane_counts))
        if template.pending:
            self._pending.extend(_moved(template.pending, counts))
        if template.host_pending:
            self._host_pending.extend(_moved(template.host_pending, counts))
        return {key: _moved(marks, counts) for key, marks in template.outputs.items()}

    def build(self) -> Program:
        """Return the program."""
        placed = _Placed(self._placed)
        return Program(
            lane=placed.column("lane"),
            name=placed.column("name"),
            kind=placed.column("kind"),
            phase=placed.column("phase"),
            layer=self._layers(placed),
            micro_batch=placed.repeated("micro_batch"),
            op=placed.column("op"),
            comm=placed.column("comm"),
            host_ps=placed.column("host_ps"),
            waits=placed.rows("waits", self._waits),
            host_waits=placed.rows("host_waits", self._host_waits),
            memory_task=placed.column("memory_task", "memory_task")
            + placed.tasks[placed.index("memory_task")],
            memory_owner=placed.column("memory_owner", "memory_task"),
            memory_bytes=placed.column("memory_bytes", "memory_task"),
            cuts=tuple(self._cuts),
            cut_tasks=tuple(self._cut_tasks),
            placements=placed.placements(),
        )

    def _layers(self, placed: _Placed) -> NDArray[np.int32]:
        layer: NDArray[np.int32] = placed.column("layer")
        offset = placed.repeated("layer_offset")
        return np.where(layer >= 0, layer + offset, layer).astype(np.int32)


class _Placement(NamedTuple):
    """A template as it was placed, with its strands: the same twice where it has but one."""

    template: Template
    first: Strand
    second: Strand


class _Placed:
    """Columns of templates, each as often as it was placed.

    `tasks` and `counts` are the tasks issued before each placement, in all and by lane.
    """

    def __init__(self, placed: Sequence[_Placement]) -> None:
        number: dict[int, int] = {}
        self._placed = placed
        self._templates: list[Template] = []
        for template, _, _ in placed:
            if number.setdefault(id(template), len(number)) == len(self._templates):
                self._templates.append(template)
        self._of = np.array([number[id(template)] for template, _, _ in placed], dtype=np.int64)
        self.tasks = self._before(np.array([len(t) for t in self._templates], dtype=np.int64))
        self.counts = self._before(np.array([t.lane_counts for t in self._templates], np.int64))
        self._known: dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}

    def _before(self, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sum of what was placed before each placement."""
        each = lengths[self._of]
        total: NDArray[np.int64] = np.cumsum(each, axis=0) - each
        return total

    def _where(self, like: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Of each element placed, its placement and its place among those of all templates."""
        if like not in self._known:
            own = np.array([len(getattr(t, like)) for t in self._templates], dtype=np.int64)
            lengths = own[self._of]
            moved = (np.cumsum(own) - own)[self._of] - (np.cumsum(lengths) - lengths)
            index = np.repeat(np.arange(len(self._of)), lengths)
            self._known[like] = index, moved[index] + np.arange(len(index))
        return self._known[like]

    def placements(self) -> NDArray[np.int64]:
        """Rows (first task, end, number of the template) of those that were placed again."""
        lengths = np.array([len(t) for t in self._templates], dtype=np.int64)[self._of]
        rows = np.stack([self.tasks, self.tasks + lengths, self._of], axis=1)
        again = np.bincount(self._of, minlength=len(self._templates)) > 1
        kept: NDArray[np.int64] = rows[again[self._of] & (lengths > 1)]
        return kept

    def index(self, like: str) -> NDArray[np.int64]:
        """The placement that each element of columns as long as `like` comes from."""
        return self._where(like)[0]

    def column(self, name: str, like: str = "lane") -> NDArray[Any]:
        """A column of all templates as placed; `like` names one of its length."""
        once = np.concatenate([getattr(template, name) for template in self._templates])
        column: NDArray[Any] = once[self._where(like)[1]]
        return column

    def repeated(self, name: Literal["micro_batch", "layer_offset"]) -> NDArray[np.int32]:
        """What is the same for all tasks of a strand of each placement."""
        index = self.index("lane")
        first = np.array([getattr(p.first, name) for p in self._placed], dtype=np.int32)[index]
        if all(template.strand is None for template in self._templates):
            return first
        second = np.array([getattr(p.second, name) for p in self._placed], dtype=np.int32)[index]
        return np.where(self._second(), second, first)

    def _second(self) -> NDArray[np.bool_]:
        """Whether each task belongs to the second strand of its template."""
        strands = [
            np.zeros(len(t), bool) if t.strand is None else t.strand for t in self._templates
        ]
        second: NDArray[np.bool_] = np.concatenate(strands)[self._where("lane")[1]] > 0
        return second

    def rows(self, name: str, extra: list[tuple[int, int, int]]) -> NDArray[np.int64]:
        """Wait rows, moved to where their templates were placed, with `extra` in task order."""
        inside, index = self.column(name, name), self.index(name)
        inside[:, 0] += self.tasks[index]
        inside[:, 2] += self.counts[index, inside[:, 1]]
        more = np.array(extra, dtype=np.int64).reshape(-1, 3)
        more = more[np.argsort(more[:, 0], kind="stable")]
        at = np.searchsorted(inside[:, 0], more[:, 0], side="right")
        merged: NDArray[np.int64] = np.insert(inside, at, more, axis=0)
        return merged


def _moved(marks: Iterable[Mark], counts: Sequence[int]) -> tuple[Mark, ...]:
    """Marks of a template as marks of the program in which it starts at `counts`."""
    return tuple([Mark(lane, done + counts[lane]) for lane, done in marks])
