"""A measured step beside a simulated one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from desim.diff.activities import Activity, Entry, Steps, summarize
from desim.diff.names import ALL_TO_ALL, EITHER, SEND_RECV, UNKNOWN, load_names
from desim.diff.result import Simulated, read_result
from desim.diff.trace import Trace, read_trace

_NOTHING = Entry(0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the comparison: seconds and number per step, measured and simulated."""

    name: str
    measured: Entry
    simulated: Entry

    @property
    def difference_s(self) -> float:
        """Simulated less measured seconds."""
        return self.simulated.seconds - self.measured.seconds


@dataclass(frozen=True, slots=True)
class SideBySide:
    """A trace of a real run beside the results of a simulated one."""

    trace_file: Path
    folder: Path
    trace: Trace
    simulated: Simulated
    step: Row
    parts: tuple[Row, ...]
    kernels: tuple[Row, ...]
    collectives: tuple[Row, ...]
    unknown: Mapping[str, Entry]

    @property
    def largest(self) -> tuple[Row, ...]:
        """Kinds of kernels and collectives, the largest difference first."""
        rows = [row for row in (*self.kernels, *self.collectives) if row.difference_s]
        return tuple(sorted(rows, key=lambda row: (-abs(row.difference_s), row.name)))


def side_by_side(trace_file: Path, folder: Path, wanted: int | None = None) -> SideBySide:
    """Put a trace beside a folder of results; raises SpecError for what cannot be read.

    `wanted` is the simulated rank; None: the one that stands for the trace's.
    """
    names = load_names()
    trace = read_trace(trace_file, names)
    simulated = read_result(folder, trace.rank, wanted, names)
    alike = _alike(trace)
    mine = summarize(alike(trace.activities), len(trace.steps), trace.step_s, UNKNOWN)
    ours = summarize(alike(simulated.activities), simulated.steps, simulated.step_s, UNKNOWN)
    return SideBySide(
        trace_file=trace_file,
        folder=folder,
        trace=trace,
        simulated=simulated,
        step=_row("step", mine.step_s, ours.step_s),
        parts=tuple(_parts(mine, ours)),
        kernels=_rows(mine.kernels, ours.kernels),
        collectives=_rows(_titled(mine), _titled(ours)),
        unknown=mine.unknown,
    )


def _alike(trace: Trace) -> Callable[[Iterable[Activity]], list[Activity]]:
    """Return what tells collectives apart as far as the trace does.

    By the number of ranks where it says that of every one of a name; never of messages, since a
    trace counts the whole pipeline and a simulated message two ranks. Messages and all-to-alls are
    one where it knows them by NCCL's kernel alone.
    """
    collectives = [one for one in trace.activities if one.communicates]
    silent = {one.kind for one in collectives if not one.group_size}
    sized = {one.kind for one in collectives} - silent - {SEND_RECV}
    known = {one.kind for one in collectives}
    merged = {SEND_RECV, ALL_TO_ALL} if EITHER in known else set()

    def told(one: Activity) -> Activity:
        if not one.communicates:
            return one
        kind = EITHER if one.kind in merged else one.kind
        unsized = one.kind not in sized and (one.kind in known or one.kind == SEND_RECV)
        size = 0 if kind == EITHER or unsized else one.group_size
        return replace(one, kind=kind, group_size=size)

    return lambda activities: [told(one) for one in activities]


def _titled(steps: Steps) -> dict[str, Entry]:
    return {
        f"{name} of {size}" if size else name: entry
        for (name, size), entry in steps.collectives.items()
    }


def _row(name: str, measured_s: float, simulated_s: float) -> Row:
    return Row(name, Entry(measured_s, 1.0), Entry(simulated_s, 1.0))


def _parts(mine: Steps, ours: Steps) -> list[Row]:
    return [
        _row("computing", mine.computing_s, ours.computing_s),
        _row("exposed communication", mine.exposed_s, ours.exposed_s),
        _row("idle", mine.idle_s, ours.idle_s),
    ]


def _rows(mine: Mapping[str, Entry], ours: Mapping[str, Entry]) -> tuple[Row, ...]:
    """Return a row for each name of either side, the longest first."""
    rows = [Row(n, mine.get(n, _NOTHING), ours.get(n, _NOTHING)) for n in {**mine, **ours}]
    return tuple(
        sorted(rows, key=lambda r: (-max(r.measured.seconds, r.simulated.seconds), r.name))
    )


def as_json(found: SideBySide) -> dict[str, Any]:
    """Return what `--json` prints; seconds per step."""
    trace, simulated = found.trace, found.simulated
    return {
        "trace": {
            "file": str(found.trace_file),
            "rank": trace.rank,
            "ranks": trace.ranks,
            "steps": [{"number": number, "seconds": seconds} for number, seconds in trace.steps],
        },
        "result": {
            "folder": str(found.folder),
            "name": simulated.name,
            "rank": simulated.rank,
            "like_it": simulated.like_it,
            "ranks": simulated.devices,
        },
        "step_time_s": {
            "measured": found.step.measured.seconds,
            "simulated": found.step.simulated.seconds,
        },
        "parts": [_told(row) for row in found.parts],
        "kernels": [_told(row) for row in found.kernels],
        "collectives": [_told(row) for row in found.collectives],
        "largest": [row.name for row in found.largest],
        "unknown": [
            {"name": name, "measured_s": entry.seconds, "measured_count": entry.count}
            for name, entry in _by_time(found.unknown)
        ],
    }


def _told(row: Row) -> dict[str, Any]:
    return {
        "name": row.name,
        "measured_s": row.measured.seconds,
        "simulated_s": row.simulated.seconds,
        "measured_count": row.measured.count,
        "simulated_count": row.simulated.count,
    }


def _by_time(entries: Mapping[str, Entry]) -> list[tuple[str, Entry]]:
    return sorted(entries.items(), key=lambda item: (-item[1].seconds, item[0]))
