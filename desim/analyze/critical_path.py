"""The critical path: the chain of tasks, each of which made the next one wait.

It is followed backward from the end of the step. A task that began the moment a task it depends on
ended was held up by that one; a collective by the member that arrived last; a task that began when
the host had issued it by the host, back to where the host itself had to wait. Kernels that each
began when the one before had ended are followed as one run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from desim.analyze.accounting import CATEGORIES, EXPOSED
from desim.record import LANES, PHASES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from desim.record import Record

    Column = NDArray[np.int64]

_COMPUTE = LANES.index("compute")
_OPTIMIZER = PHASES.index("optimizer")
_CATEGORY = {name: number for number, name in enumerate(CATEGORIES)}
_LAUNCH, _RUN = _CATEGORY["launch"], -1
_CATEGORY_OF_LANE = [_CATEGORY[EXPOSED.get(lane, "compute")] for lane in LANES]


@dataclass(frozen=True, slots=True)
class Path:
    """Stretches of the critical path as columns, first stretch first.

    In a stretch the task named `name` (of `Record.names`) of a rank class ran, or was being
    launched; `category` indexes `CATEGORIES`.
    """

    category: Column
    name: Column
    rank_class: Column
    start_ps: Column
    end_ps: Column

    def __len__(self) -> int:
        return len(self.category)


def critical_path(record: Record) -> Path:
    """Return the critical path of the measured window."""
    walk = _Walk(record)
    walk.follow()
    return walk.path()


def path_share(path: Path) -> dict[str, float]:
    """Share of the path's time by category; sums to 1."""
    time_ps = path.end_ps - path.start_ps
    by_category = np.bincount(path.category, time_ps, minlength=len(CATEGORIES))
    return dict(zip(CATEGORIES, (by_category / time_ps.sum()).tolist(), strict=True))


class _Class:
    """The spans and causes of one rank class; items of the views are plain numbers.

    `run[i]` is the place, among the kernels, of the first of those that kernel i ran on from
    without a gap; `place[i]` is its own.
    """

    def __init__(self, record: Record, number: int) -> None:
        self.spans = spans = record.spans_of(number)
        causes = record.causes_of(number)
        self._kernels = kernels = np.flatnonzero(spans.lane == _COMPUTE)
        self.ended = ended = spans.end_ps[kernels]
        begins = np.ones(len(kernels), dtype=bool)
        begins[1:] = ended[:-1] != spans.ready_ps[kernels[1:]]
        self.run = np.maximum.accumulate(np.where(begins, np.arange(len(kernels)), 0)).data
        self.place = (np.cumsum(spans.lane == _COMPUTE) - 1).data
        self.kernel = kernels.data
        self.lane = spans.lane.data
        self.name = spans.name.data
        self.group = spans.group.data
        self.issue = spans.issue_ps.data
        self.ready = spans.ready_ps.data
        self.start = spans.start_ps.data
        self.end = spans.end_ps.data
        self.before = causes.before.data
        self.first = causes.first.data
        self.waited = causes.waited.data
        self.released = causes.released_ps.data
        self.releaser = causes.releaser.data

    def stretches(self, place: Column) -> Column:
        """Of each kernel a row for what it was stretched by and one for its time alone."""
        spans, at = self.spans, self._kernels[place]
        start, end = spans.start_ps[at], spans.end_ps[at]
        alone = np.minimum(start + spans.alone_ps[at], end)
        updates = spans.phase[at] == _OPTIMIZER
        rows = np.zeros((len(at), 2, 5), dtype=np.int64)
        rows[:, 0, 0] = _CATEGORY["contention"]
        rows[:, 1, 0] = np.where(updates, _CATEGORY["optimizer"], _CATEGORY["compute"])
        rows[:, :, 1] = spans.name[at, None]
        rows[:, 0, 3], rows[:, 0, 4] = alone, end
        rows[:, 1, 3], rows[:, 1, 4] = start, alone
        return rows


class _Walk:
    """The way back, last stretch first.

    A row of it is one of a `Path`, or a run of kernels: (`_RUN`, place of its first kernel, rank
    class, place of its last kernel, 0).
    """

    def __init__(self, record: Record) -> None:
        self._record = record
        self._loaded: dict[int, _Class] = {}
        self._rows: list[tuple[int, int, int, int, int]] = []
        self._begin_ps = 0

    def _class(self, number: int) -> _Class:
        if number not in self._loaded:
            self._loaded[number] = _Class(self._record, number)
        return self._loaded[number]

    def follow(self) -> None:
        """Walk back from the end of the class whose step ends last."""
        classes = self._record.classes
        number = max(range(len(classes)), key=lambda c: classes[c].window_ps[1])
        self._begin_ps, finish = classes[number].window_ps
        ends = self._class(number).spans.end_ps
        at = int(np.where(ends <= finish, ends, -1).argmax())
        where: tuple[int, int] | None = (number, at)
        while where is not None and self._class(where[0]).end[where[1]] > self._begin_ps:
            where = self._step(*where)

    def path(self) -> Path:
        """The way followed, first stretch first; what is before its begin is cut off."""
        rows = np.array(self._rows, dtype=np.int64).reshape(-1, 5)
        runs = rows[:, 0] == _RUN
        kernels = np.where(runs, rows[:, 3] - rows[:, 1] + 1, 1)
        row = np.repeat(np.arange(len(rows)), kernels)
        back = np.arange(len(row)) - np.repeat(np.cumsum(kernels) - kernels, kernels)
        both = np.zeros((len(row), 2, 5), dtype=np.int64)
        both[:, 0] = rows[row]
        for number, one in self._loaded.items():
            mine = np.flatnonzero(runs[row] & (rows[row, 2] == number))
            both[mine] = one.stretches(rows[row[mine], 3] - back[mine])
            both[mine, :, 2] = number
        every = both.reshape(-1, 5)[::-1]
        every[:, 3] = np.maximum(every[:, 3], self._begin_ps)
        category, name, rank_class, start, end = every[every[:, 4] > every[:, 3]].T
        return Path(category, name, rank_class, start, end)

    def _step(self, number: int, at: int) -> tuple[int, int] | None:
        """Add what ran at one span and return the span that it had waited for."""
        one = self._class(number)
        lane = one.lane[at]
        if lane == _COMPUTE:
            last = one.place[at]
            first = one.run[last]
            self._rows.append((_RUN, first, number, last, 0))
            return self._cause(number, one.kernel[first])
        start, end = one.start[at], one.end[at]
        self._rows.append((_CATEGORY_OF_LANE[lane], one.name[at], number, start, end))
        if start > one.ready[at]:
            return self._latest(one.group[at], start, end)
        return self._cause(number, at)

    def _latest(self, group: int, start: int, end: int) -> tuple[int, int] | None:
        """What held up the member of a collective that arrived last."""
        for number in self._record.group_members[group]:
            spans = self._class(number).spans
            same = (spans.group == group) & (spans.start_ps == start) & (spans.end_ps == end)
            found = np.flatnonzero(same & (spans.ready_ps == start))
            if len(found):
                return self._cause(number, int(found[0]))
        return None

    def _cause(self, number: int, at: int) -> tuple[int, int] | None:
        """The span whose end let this one begin; launch time in between is added."""
        one = self._class(number)
        ready = one.ready[at]
        other = one.before[at]
        if other >= 0 and one.end[other] == ready:
            return number, other
        for i in range(one.first[at], one.first[at + 1]):
            other = one.waited[i]
            if other >= 0 and one.end[other] == ready:
                return number, other
        if one.lane[at] != _COMPUTE and one.issue[at] < ready:
            place = int(np.searchsorted(one.ended, ready))
            if place < len(one.ended) and one.ended[place] == ready:  # it let this kernel end first
                return number, one.kernel[place]
        released, releaser = one.released[at], one.releaser[at]
        self._rows.append((_LAUNCH, one.name[at], number, released, ready))
        return (number, releaser) if releaser >= 0 else None
