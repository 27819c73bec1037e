"""The record as a Chrome trace that Perfetto opens.

What Perfetto needs, by its trace processor: no thread 0, both ends of a span rounded to
integer nanoseconds before the duration is taken, spans on one thread nest or touch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from desim.analyze.choose import class_label, drawn_classes
from desim.analyze.distinct import distinct, distinct_labels
from desim.export.carry import begin_together
from desim.export.events import (
    flow_end,
    metadata,
    rounded_ns,
    slice_head,
    slice_place,
    slices,
)
from desim.export.files import write_aside
from desim.export.gzip_stream import GzipStream
from desim.export.lanes import host_of, passes_of
from desim.export.titles import task_title
from desim.export.tracks import LINKS_PID, counter_events
from desim.record import LANES, PHASES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from desim.record import Causes, Record, Spans

    Integers = NDArray[np.int64]

#: Perfetto stays usable up to one or two million spans in a file.
MAX_CLASSES = 32
#: Threads of every process: what the host does, which pass it is in, then the lanes. No process has
#: one of these numbers, since Perfetto takes a thread with its process's number for the main one.
HOST_TID, PASSES_TID, FIRST_LANE_TID = 101, 102, 103
_COMPUTE = LANES.index("compute")
#: Process numbers and numbers of arrows that each of several records has to itself.
_PIDS, _FLOWS = 2 * LINKS_PID, 10_000_000


def write_trace(record: Record, path: Path | str, max_classes: int = MAX_CLASSES) -> None:
    """Write the spans, messages and counters of the representatives as a gzipped Chrome trace.

    A rank class is a process, a lane a thread. Waiting for other members of a group is a span of
    its own, named `wait`, before the span of the transfer. Two threads more show the passes with
    the layers in them, and the host.
    """
    chosen = drawn_classes(record, max_classes)
    write_aside(path, lambda file: _write([_Part(record, chosen)], file))


def write_traces(
    named: Sequence[tuple[str, Record]], path: Path | str, max_classes: int = MAX_CLASSES
) -> None:
    """Write several records into one trace: a group of processes each, whose names begin with its.

    Their measured steps begin at the same time. `max_classes` holds for all of them together.
    """
    each = max(1, max_classes // len(named))
    records = begin_together([record for _, record in named])
    parts = [
        _Part(record, drawn_classes(record, each), f"{name}: ", number * _PIDS, number * _FLOWS)
        for number, (record, (name, _)) in enumerate(zip(records, named, strict=True))
    ]
    write_aside(path, lambda file: _write(parts, file))


@dataclass(frozen=True, slots=True)
class _Part:
    """A record in a trace: the classes that are drawn, what its processes' names begin with.

    Its processes are numbered from one more than `base`, its arrows from one more than `flows`.
    """

    record: Record
    chosen: Sequence[int]
    prefix: str = ""
    base: int = 0
    flows: int = 0


def _write(parts: Sequence[_Part], file: IO[bytes]) -> None:
    with GzipStream(file) as stream:
        stream.write('{"displayTimeUnit":"ms","traceEvents":[\n')
        for part in parts:
            _write_part(part, stream)
        stream.write(metadata("process_labels", 1, 0, {"labels": "desim"})[:-2] + "\n]}\n")


def _write_part(part: _Part, stream: GzipStream) -> None:
    record, spans, pids = part.record, {}, {}
    for pid, index in enumerate(part.chosen, start=part.base + 1):
        spans[index], pids[index] = record.spans_of(index), pid
        stream.write(
            _process_events(part.prefix + class_label(record, index), pid, spans[index])
            + _host_events(record, spans[index], record.causes_of(index), pid)
            + _pass_events(spans[index], pid)
            + _span_events(record, spans[index], pid)
        )
    # A flow binds to the span before it in the file, so all spans come first.
    stream.write(_flow_events(record, spans, pids, part.flows))
    stream.write("".join(counter_events(record, pids, part.base + LINKS_PID, part.prefix)))


def lane_tid(lane: int) -> int:
    """Return the thread number of a lane."""
    return FIRST_LANE_TID + lane


def lane_title(lane: int) -> str:
    """Return the thread name of a lane."""
    return LANES[lane].replace("_", " ")


def _process_events(label: str, pid: int, spans: Spans) -> str:
    """Name and sort a rank class and the lanes that it uses."""
    threads = {HOST_TID: "host", PASSES_TID: "passes"}
    threads |= {lane_tid(lane): lane_title(lane) for lane in np.unique(spans.lane).tolist()}
    events = [
        metadata("process_name", pid, 0, {"name": label}),
        metadata("process_sort_index", pid, 0, {"sort_index": pid}),
    ]
    for tid, name in threads.items():
        events += [
            metadata("thread_name", pid, tid, {"name": name}),
            metadata("thread_sort_index", pid, tid, {"sort_index": tid}),
        ]
    return "".join(events)


def _host_events(record: Record, spans: Spans, causes: Causes, pid: int) -> str:
    """Return the host's runs of launches and its waits."""
    host = host_of(spans, causes)
    heads = []
    for launches, awaited in zip(host.launches.tolist(), host.awaited.tolist(), strict=True):
        if launches:
            heads.append(slice_head(pid, HOST_TID, "issue", "host", {"launches": launches}))
        else:
            args = {"for": record.names[spans.name[awaited]]} if awaited >= 0 else {}
            heads.append(slice_head(pid, HOST_TID, "wait", "wait", args))
    return _derived(heads, np.arange(len(heads)), host.start_ps, host.end_ps)


def _pass_events(spans: Spans, pid: int) -> str:
    """Return passes, and within them layers."""
    passes, layers = passes_of(spans)
    several = bool(passes.chunk.any())
    heads = []
    for phase, mb, chunk in zip(
        passes.phase.tolist(), passes.micro_batch.tolist(), passes.chunk.tolist(), strict=True
    ):
        args = {"mb": mb} | ({"chunk": chunk} if several else {}) if mb >= 0 else {}
        name = f"{PHASES[phase]} {mb}" if mb >= 0 else PHASES[phase]
        heads.append(slice_head(pid, PASSES_TID, name, "pass", args))
    held, layer = np.unique(layers.layer, return_inverse=True)
    inner = [
        slice_head(pid, PASSES_TID, f"layer {at}", "layer", {"layer": at}) for at in held.tolist()
    ]
    # Of two that begin together the outer one must come first.
    outer = _derived(heads, np.arange(len(heads)), passes.start_ps, passes.end_ps)
    return outer + _derived(inner, layer, layers.start_ps, layers.end_ps)


def _derived(heads: list[str], head: Integers, start_ps: Integers, end_ps: Integers) -> str:
    """Return slices that have no place in the model of their own."""
    place = np.zeros(len(head), np.int64)
    start, end = rounded_ns(start_ps), rounded_ns(end_ps)
    return slices(heads, head, [slice_place({})], place, start, end)


def _span_events(record: Record, spans: Spans, pid: int) -> str:
    """Return the events of all spans and waits: text per distinct label, place and time."""
    first, label = distinct_labels(spans)
    heads, wait_heads = _heads(record, spans, first, pid)
    place_first, place = distinct(spans.micro_batch, spans.layer)
    places = [
        slice_place({name: at for name, at in (("mb", mb), ("layer", layer)) if at >= 0})
        for mb, layer in zip(
            spans.micro_batch[place_first].tolist(), spans.layer[place_first].tolist(), strict=True
        )
    ]
    ready, start, end = map(rounded_ns, (spans.ready_ps, spans.start_ps, spans.end_ps))
    waits = np.flatnonzero((start > ready) & (spans.lane != _COMPUTE))
    return slices(heads, label, places, place, start, end) + slices(
        wait_heads, label[waits], places, place[waits], ready[waits], start[waits]
    )


def _heads(record: Record, spans: Spans, rows: Integers, pid: int) -> tuple[list[str], list[str]]:
    """Return the beginning of a span's and of a wait's event for each of the `rows`."""
    heads, waits = [], []
    for row in rows.tolist():
        group = int(spans.group[row])
        kind = record.kinds[spans.kind[row]]
        title = task_title(record.names[spans.name[row]], kind if group >= 0 else "")
        args: dict[str, Any] = {"phase": PHASES[spans.phase[row]], "kind": kind}
        if group >= 0:
            args |= {"bytes": round(float(spans.size_bytes[row])), "group": record.groups[group]}
        tid = lane_tid(int(spans.lane[row]))
        heads.append(slice_head(pid, tid, title, kind, args))
        waits.append(slice_head(pid, tid, "wait", "wait", {"for": title, **args}))
    return heads, waits


def _flow_events(record: Record, spans: dict[int, Spans], pids: dict[int, int], before: int) -> str:
    """Return an arrow for each message whose two ends are drawn; `before` numbers are taken."""
    events = []
    for number, flow in enumerate(record.flows, start=before + 1):
        if flow.source_class not in pids or flow.target_class not in pids:
            continue
        source, target = spans[flow.source_class], spans[flow.target_class]
        sent = int(rounded_ns(source.start_ps[flow.source_span]))
        received = max(sent, int(rounded_ns(target.start_ps[flow.target_span])))
        from_tid = lane_tid(int(source.lane[flow.source_span]))
        to_tid = lane_tid(int(target.lane[flow.target_span]))
        events += [
            flow_end("s", number, pids[flow.source_class], from_tid, sent),
            flow_end("f", number, pids[flow.target_class], to_tid, received),
        ]
    return "".join(events)
