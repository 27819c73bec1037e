"""The record as a Chrome trace that Perfetto opens.

What Perfetto needs is listed in design.md section 8: no thread 0, both ends of a span rounded to
integer nanoseconds before the duration is taken, spans on one thread nest or touch.
"""

from __future__ import annotations

import json
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from desim.analyze.choose import class_label, drawn_classes
from desim.analyze.distinct import distinct, distinct_labels
from desim.export.files import write_aside
from desim.export.gzip_stream import GzipStream
from desim.export.tracks import counter_events
from desim.record import LANES, PHASES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from desim.record import Record, Spans

    Times = NDArray[np.int64]

#: Perfetto stays usable up to one or two million spans in a file.
MAX_CLASSES = 32
_FRACTIONS = [f".{n:03d}" for n in range(1000)]


def write_trace(record: Record, path: Path | str, max_classes: int = MAX_CLASSES) -> None:
    """Write the spans, messages and counters of the representatives as a gzipped Chrome trace.

    A rank class is a process, a lane a thread. Waiting for other members of a group is a span of
    its own, named `wait`, before the span of the transfer.
    """
    write_aside(path, lambda file: _write(record, file, drawn_classes(record, max_classes)))


def _write(record: Record, file: IO[bytes], chosen: Sequence[int]) -> None:
    with GzipStream(file) as stream:
        stream.write('{"displayTimeUnit":"ms","traceEvents":[\n')
        spans = {}
        for pid, index in enumerate(chosen, start=1):
            spans[index] = record.spans_of(index)
            stream.write(_process_events(class_label(record, index), pid, spans[index]))
            stream.write(_span_events(record, spans[index], pid))
        # A flow binds to the span before it in the file, so all spans come first.
        stream.write(_flow_events(record, spans, {c: p for p, c in enumerate(chosen, start=1)}))
        stream.write("".join(counter_events(record, chosen)))
        stream.write(_metadata("process_labels", 1, 0, {"labels": "desim"})[:-2] + "\n]}\n")


def rounded_ns(times_ps: Times) -> Times:
    """Return times in picoseconds rounded to whole nanoseconds."""
    return (times_ps + 500) // 1000


def _metadata(what: str, pid: int, tid: int, args: dict[str, Any]) -> str:
    event = {"ph": "M", "name": what, "pid": pid, "tid": tid, "args": args}
    return json.dumps(event, separators=(",", ":")) + ",\n"


def _process_events(label: str, pid: int, spans: Spans) -> str:
    """Name and sort a rank class and the lanes that it uses."""
    events = [
        _metadata("process_name", pid, 0, {"name": label}),
        _metadata("process_sort_index", pid, 0, {"sort_index": pid}),
    ]
    for lane in np.unique(spans.lane).tolist():
        events += [
            _metadata("thread_name", pid, lane + 1, {"name": LANES[lane].replace("_", " ")}),
            _metadata("thread_sort_index", pid, lane + 1, {"sort_index": lane + 1}),
        ]
    return "".join(events)


def _span_events(record: Record, spans: Spans, pid: int) -> str:
    """Return the events of all spans and waits: text per distinct label, place and time."""
    first, label = distinct_labels(spans)
    heads, wait_heads = _heads(record, spans, first, pid)
    place_first, place = distinct(spans.micro_batch, spans.layer)
    places = [
        _place(mb, layer)
        for mb, layer in zip(
            spans.micro_batch[place_first].tolist(), spans.layer[place_first].tolist(), strict=True
        )
    ]
    ready, start, end = map(rounded_ns, (spans.ready_ps, spans.start_ps, spans.end_ps))
    waits = np.flatnonzero((start > ready) & (spans.lane != LANES.index("compute")))
    return _events(heads, label, places, place, start, end) + _events(
        wait_heads, label[waits], places, place[waits], ready[waits], start[waits]
    )


def _place(micro_batch: int, layer: int) -> str:
    mb = f',"mb":{micro_batch}' if micro_batch >= 0 else ""
    return mb + (f',"layer":{layer}' if layer >= 0 else "") + '},"ts":'


def _heads(record: Record, spans: Spans, rows: Times, pid: int) -> tuple[list[str], list[str]]:
    """Return the beginning of a span's and of a wait's event for each of the `rows`."""
    heads, waits = [], []
    for row in rows.tolist():
        name, group = record.names[spans.name[row]], int(spans.group[row])
        args: dict[str, Any] = {
            "phase": PHASES[spans.phase[row]],
            "kind": record.kinds[spans.kind[row]],
        }
        if group >= 0:
            args |= {"bytes": round(float(spans.size_bytes[row])), "group": record.groups[group]}
        begin = f'{{"ph":"X","pid":{pid},"tid":{spans.lane[row] + 1},"name":'
        heads.append(f'{begin}{json.dumps(name)},"args":{_open_object(args)}')
        waits.append(f'{begin}"wait","args":{_open_object({"for": name, **args})}')
    return heads, waits


def _open_object(args: dict[str, Any]) -> str:
    """Return a JSON object without its closing brace, so that more keys can follow."""
    return json.dumps(args, separators=(",", ":"))[:-1]


def _events(
    heads: list[str], label: Times, places: list[str], place: Times, start: Times, end: Times
) -> str:
    """Return `X` events as one text; the pieces are joined by C code, not one event at a time."""
    length_first, length = np.unique(end - start, return_inverse=True)
    tails = [
        f',"dur":{time // 1000}{_FRACTIONS[time % 1000]}}},\n' for time in length_first.tolist()
    ]
    pieces: list[str] = [""] * (5 * len(start))
    pieces[0::5] = map(heads.__getitem__, label.tolist())
    pieces[1::5] = map(places.__getitem__, place.tolist())
    pieces[2::5] = map(str, (start // 1000).tolist())
    pieces[3::5] = map(_FRACTIONS.__getitem__, (start % 1000).tolist())
    pieces[4::5] = map(tails.__getitem__, length.tolist())
    return "".join(pieces)


def _flow_events(record: Record, spans: dict[int, Spans], pids: dict[int, int]) -> str:
    """Return an arrow for each message whose two ends are drawn."""
    events = []
    for number, flow in enumerate(record.flows, start=1):
        if flow.source_class not in pids or flow.target_class not in pids:
            continue
        source, target = spans[flow.source_class], spans[flow.target_class]
        sent = int(rounded_ns(source.start_ps[flow.source_span]))
        received = max(sent, int(rounded_ns(target.start_ps[flow.target_span])))
        events += [
            _flow_end('"s"', number, pids[flow.source_class], source.lane[flow.source_span], sent),
            _flow_end(
                '"f","bp":"e"',
                number,
                pids[flow.target_class],
                target.lane[flow.target_span],
                received,
            ),
        ]
    return "".join(events)


def _flow_end(what: str, number: int, pid: int, lane: int, time_ns: int) -> str:
    return (
        f'{{"ph":{what},"name":"message","cat":"message","id":{number},"pid":{pid},'
        f'"tid":{lane + 1},"ts":{time_ns // 1000}{_FRACTIONS[time_ns % 1000]}}},\n'
    )
