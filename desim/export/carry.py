"""Records for another process or another clock: some rank classes of them, at other times."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Generic, TypeVar

from desim.analyze.links import measured_window_ps

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from desim.record import Causes, Record, Spans

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Held(Generic[T]):
    """What was expanded of each rank class; other than the engine's expansion it can be sent."""

    items: tuple[T, ...]

    def __call__(self, number: int) -> T:
        return self.items[number]


def carried(record: Record, chosen: Sequence[int]) -> Record:
    """Return the part of a record that shows the `chosen` rank classes, in a form that pickles.

    The classes are numbered anew in their order; messages to others are left out. Groups keep
    their names, but not their members.
    """
    new = {old: number for number, old in enumerate(chosen)}
    flows = [f for f in record.flows if f.source_class in new and f.target_class in new]
    return replace(
        record,
        classes=tuple(record.classes[old] for old in chosen),
        spans_of=_Held(tuple(record.spans_of(old) for old in chosen)),
        causes_of=_Held(tuple(record.causes_of(old) for old in chosen)),
        memory=tuple(record.memory[old] for old in chosen if old < len(record.memory)),
        flows=tuple(
            replace(f, source_class=new[f.source_class], target_class=new[f.target_class])
            for f in flows
        ),
        group_members=(),
        details={
            name: value
            for name, value in record.details.items()
            if name in ("device_memory_bytes", "groups_across_stages")
        },
    )


def begin_together(records: Sequence[Record]) -> list[Record]:
    """Return records whose measured steps begin at one moment, with nothing before time zero."""
    begins = [measured_window_ps(record)[0] for record in records]
    leads = [begin - min(_times(record)) for record, begin in zip(records, begins, strict=True)]
    origin = max(0, *leads)
    return [_moved(record, origin - begin) for record, begin in zip(records, begins, strict=True)]


def _times(record: Record) -> Iterable[int]:
    """Yield the first time of everything that a record holds, in whatever order."""
    yield measured_window_ps(record)[0]
    for number in range(len(record.classes)):
        spans, causes = record.spans_of(number), record.causes_of(number)
        for column in (spans.issue_ps, spans.ready_ps, spans.start_ps, causes.released_ps):
            if len(column):
                yield int(column.min())
    series = [m.time_ps for m in record.memory] + [link.time_ps for link in record.links]
    yield from (int(times.min()) for times in series if len(times))


def _moved(record: Record, by_ps: int) -> Record:
    """Return a record with all its times later by `by_ps`."""
    numbers = range(len(record.classes))
    return replace(
        record,
        classes=tuple(
            replace(c, window_ps=(c.window_ps[0] + by_ps, c.window_ps[1] + by_ps))
            for c in record.classes
        ),
        spans_of=_Held(tuple(_moved_spans(record.spans_of(n), by_ps) for n in numbers)),
        causes_of=_Held(tuple(_moved_causes(record.causes_of(n), by_ps) for n in numbers)),
        memory=tuple(replace(m, time_ps=m.time_ps + by_ps) for m in record.memory),
        links=tuple(replace(link, time_ps=link.time_ps + by_ps) for link in record.links),
    )


def _moved_spans(spans: Spans, by_ps: int) -> Spans:
    return replace(
        spans,
        issue_ps=spans.issue_ps + by_ps,
        ready_ps=spans.ready_ps + by_ps,
        start_ps=spans.start_ps + by_ps,
        end_ps=spans.end_ps + by_ps,
    )


def _moved_causes(causes: Causes, by_ps: int) -> Causes:
    return replace(causes, released_ps=causes.released_ps + by_ps)
