"""The critical path: the chain of tasks, each of which made the next one wait.

It is followed backward from the end of the step. A task that began the moment a task it depends on
ended was held up by that one; a collective by the member that arrived last; a task that began when
the host had issued it by the host, back to where the host itself had to wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from desim.analyze.accounting import CATEGORIES, EXPOSED
from desim.record import LANES, PHASES

if TYPE_CHECKING:
    from desim.record import Record

_OPTIMIZER = PHASES.index("optimizer")


class Link(NamedTuple):
    """A stretch of the critical path: `task` ran (or was being launched) in it."""

    category: str
    task: str
    rank_class: int
    start_ps: int
    end_ps: int


class _Class:
    """The spans and causes of one rank class as views: items of a view are plain numbers."""

    def __init__(self, record: Record, number: int) -> None:
        spans, causes = record.spans_of(number), record.causes_of(number)
        self.ends = spans.end_ps
        self.lane = spans.lane.data
        self.phase = spans.phase.data
        self.name = spans.name.data
        self.group = spans.group.data
        self.ready = spans.ready_ps.data
        self.start = spans.start_ps.data
        self.end = spans.end_ps.data
        self.alone = spans.alone_ps.data
        self.before = causes.before.data
        self.first = causes.first.data
        self.waited = causes.waited.data
        self.released = causes.released_ps.data
        self.releaser = causes.releaser.data


def critical_path(record: Record) -> list[Link]:
    """Return the critical path of the measured window, first stretch first."""
    return _Walk(record).path()


def path_share(path: list[Link]) -> dict[str, float]:
    """Share of the path's time by category; sums to 1."""
    total = sum(link.end_ps - link.start_ps for link in path)
    share = dict.fromkeys(CATEGORIES, 0.0)
    for link in path:
        share[link.category] += (link.end_ps - link.start_ps) / total
    return share


class _Walk:
    def __init__(self, record: Record) -> None:
        self._record = record
        self._names = record.names
        self._loaded: dict[int, _Class] = {}
        self._path: list[Link] = []
        self._begin = 0

    def _spans(self, number: int) -> _Class:
        if number not in self._loaded:
            self._loaded[number] = _Class(self._record, number)
        return self._loaded[number]

    def path(self) -> list[Link]:
        """Walk back from the end of the class whose step ends last."""
        record = self._record
        number = max(range(len(record.classes)), key=lambda c: record.classes[c].window_ps[1])
        self._begin, finish = record.classes[number].window_ps
        ends = self._spans(number).ends
        at = int(np.where(ends <= finish, ends, -1).argmax())
        where: tuple[int, int] | None = (number, at)
        while where is not None and self._spans(where[0]).end[where[1]] > self._begin:
            where = self._step(*where)
        self._path.reverse()
        return self._path

    def _add(
        self, category: str, spans: _Class, number: int, at: int, start: int, end: int
    ) -> None:
        if start < self._begin:
            start = self._begin
        if end > start:
            self._path.append(Link(category, self._names[spans.name[at]], number, start, end))

    def _step(self, number: int, at: int) -> tuple[int, int] | None:
        """Add what ran at one span and return the span that it had waited for."""
        spans = self._spans(number)
        start, end = spans.start[at], spans.end[at]
        lane = spans.lane[at]
        if lane == 0:
            alone = start + spans.alone[at]
            own = "optimizer" if spans.phase[at] == _OPTIMIZER else "compute"
            if alone < end:
                self._add("contention", spans, number, at, alone, end)
                end = alone
            self._add(own, spans, number, at, start, end)
        else:
            self._add(EXPOSED[LANES[lane]], spans, number, at, start, end)
            if start > spans.ready[at]:
                return self._latest(spans.group[at], start, end)
        return self._cause(number, at)

    def _latest(self, group: int, start: int, end: int) -> tuple[int, int] | None:
        """What held up the member of a collective that arrived last."""
        for number in self._record.group_members[group]:
            spans = self._record.spans_of(number)
            same = (spans.group == group) & (spans.start_ps == start) & (spans.end_ps == end)
            found = np.flatnonzero(same & (spans.ready_ps == start))
            if len(found):
                return self._cause(number, int(found[0]))
        return None

    def _cause(self, number: int, at: int) -> tuple[int, int] | None:
        """The span whose end let this one begin; launch time in between is added."""
        spans = self._spans(number)
        ready = spans.ready[at]
        other = spans.before[at]
        if other >= 0 and spans.end[other] == ready:
            return number, other
        for i in range(spans.first[at], spans.first[at + 1]):
            other = spans.waited[i]
            if other >= 0 and spans.end[other] == ready:
                return number, other
        released, releaser = spans.released[at], spans.releaser[at]
        self._add("launch", spans, number, at, released, ready)
        return (number, releaser) if releaser >= 0 else None
