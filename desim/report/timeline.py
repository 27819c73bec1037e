"""The spans of representative ranks, packed so that the page can draw any stretch of time.

The page merges what is too narrow to see, for the stretch of time that is in view; every span that
is packed here can be zoomed to.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from desim.analyze.choose import drawn_classes
from desim.analyze.critical_path import critical_path
from desim.analyze.distinct import distinct
from desim.export.lanes import chunk_numbers
from desim.export.titles import task_title
from desim.record import GROUP_OF_LANE, LANES, PHASES, PS_PER_S
from desim.report import palette
from desim.units import show

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from desim.record import Record, Spans

#: Rank classes on the page, and spans in it: about 14 bytes each, a third more as text.
MAX_CLASSES = 16
MAX_SPANS = 210_000
_COMPUTE = LANES.index("compute")
#: Lane -> row of its class on the timeline.
_ROW_OF = {
    lane: "host copy" if lane in ("h2d", "d2h") else group for lane, group in GROUP_OF_LANE.items()
}
_ROWS = tuple(dict.fromkeys(_ROW_OF.values()))
_ROW_INDEX = np.array([_ROWS.index(_ROW_OF[lane]) for lane in LANES])


@dataclass(frozen=True, slots=True)
class _Drawn:
    """What is drawn of one class: tasks and waits, by row and start; `label` indexes texts."""

    row: NDArray[np.int64]
    start_ps: NDArray[np.int64]
    end_ps: NDArray[np.int64]
    label: NDArray[np.int64]
    micro_batch: NDArray[np.int64]
    layer: NDArray[np.int64]


def packed_timeline(
    record: Record, chosen: Sequence[int] | None = None, most_spans: int | None = None
) -> dict[str, Any]:
    """Return rows, labels and the packed columns of the timeline, ready for JSON.

    `chosen` are the rank classes to draw, `most_spans` how many spans there is room for before
    neighbours are joined. `path` holds the critical path: (class, start, end) in seconds of the
    simulation.
    """
    if chosen is None:
        chosen = drawn_classes(record, MAX_CLASSES)
    labels: list[dict[str, Any]] = []
    drawn = [_of_class(record, record.spans_of(index), labels) for index in chosen]
    for same in (("layer",), ()):
        if sum(len(one.row) for one in drawn) > (most_spans or MAX_SPANS):
            drawn = [_coarsened(one, labels, by_layer=bool(same)) for one in drawn]
    rows = []
    offset = 0
    for index, one in zip(chosen, drawn, strict=True):
        for row in np.unique(one.row).tolist():
            count = int(np.count_nonzero(one.row == row))
            rows.append({"class": index, "lane": _ROWS[row], "first": offset, "count": count})
            offset += count
    classes = {
        index: {
            "stage": record.classes[index].stage,
            "rank": record.classes[index].representative,
            "ranks": record.classes[index].count,
        }
        for index in chosen
    }
    path = _path(record)
    return {"rows": rows, "classes": classes, "labels": labels, "path": path, **_columns(drawn)}


def _path(record: Record) -> list[list[float]]:
    """Return the stretches of time that the critical path spends on each rank class."""
    path = critical_path(record)
    moves = np.flatnonzero(np.diff(path.rank_class))
    first, last = np.append(0, moves + 1), np.append(moves, len(path) - 1)
    start, end = path.start_ps[first] / PS_PER_S, path.end_ps[last] / PS_PER_S
    rows = zip(path.rank_class[first].tolist(), start.tolist(), end.tolist(), strict=True)
    return [list(row) for row in rows]


def _of_class(record: Record, spans: Spans, labels: list[dict[str, Any]]) -> _Drawn:
    """Return tasks and waits of a class and append their texts to `labels`."""
    waits = np.flatnonzero((spans.start_ps > spans.ready_ps) & (spans.lane != _COMPUTE))
    chunk = np.where(spans.lane == _COMPUTE, chunk_numbers(spans.layer), 0)
    columns = (spans.lane, spans.name, spans.phase, spans.group, spans.size_bytes, chunk)
    first, inverse = distinct(*columns)
    base = len(labels)
    chunks = int(chunk.max(initial=0)) + 1
    texts = [_label(record, spans, row, int(chunk[row]), chunks) for row in first.tolist()]
    labels += texts + [{**text, "wait": 1, "colour": palette.WAIT} for text in texts]
    row = _ROW_INDEX[spans.lane]
    row = np.append(row, row[waits])
    start = np.append(spans.start_ps, spans.ready_ps[waits])
    order = np.lexsort((start, row))
    return _Drawn(
        row=row[order],
        start_ps=start[order],
        end_ps=np.append(spans.end_ps, spans.start_ps[waits])[order],
        label=base + np.append(inverse, inverse[waits] + len(first))[order],
        micro_batch=np.append(spans.micro_batch, spans.micro_batch[waits])[order].astype(np.int64),
        layer=np.append(spans.layer, spans.layer[waits])[order].astype(np.int64),
    )


def _label(record: Record, spans: Spans, row: int, chunk: int, chunks: int) -> dict[str, Any]:
    """Return the texts of a task: `chunk` of `chunks` parts of the model that the rank holds."""
    lane, phase, group = LANES[spans.lane[row]], PHASES[spans.phase[row]], int(spans.group[row])
    name = record.names[spans.name[row]]
    if lane != "compute":
        key = _ROW_OF[lane]
        title = task_title(name, record.kinds[spans.kind[row]])
        label = {"name": title, "phase": phase, "colour": palette.LANES[key], "key": key}
        if group >= 0:
            size = show(float(spans.size_bytes[row]), "bytes")
            label["more"] = f"{size}, group {record.groups[group]}"
        return label
    colour, key = palette.PHASES[phase], phase
    if chunks > 1 and spans.micro_batch[row] >= 0:
        colour, key = palette.shade(colour, chunk, chunks), f"{phase}, chunk {chunk}"
    return {"name": name, "phase": phase, "colour": colour, "key": key}


def _coarsened(one: _Drawn, labels: list[dict[str, Any]], *, by_layer: bool) -> _Drawn:
    """Join neighbours of one row, colour, micro-batch and (if asked) layer."""
    if not len(one.row):
        return one
    colours = [label["colour"] for label in labels]
    codes = {colour: code for code, colour in enumerate(dict.fromkeys(colours))}
    colour = np.array([codes[name] for name in colours])[one.label]
    keys = [one.row, colour, one.micro_batch] + ([one.layer] if by_layer else [])
    changes = np.any([key[1:] != key[:-1] for key in keys], axis=0)
    first = np.flatnonzero(np.append(True, changes))
    joined: dict[int, int] = {}
    for old in np.unique(one.label[first]).tolist():
        joined[old] = len(labels)
        what = "tasks of one layer" if by_layer else "tasks of one pass"
        labels.append({**labels[old], "name": what, "more": ""})
    return _Drawn(
        row=one.row[first],
        start_ps=one.start_ps[first],
        end_ps=np.maximum.reduceat(one.end_ps, first),
        label=np.array([joined[old] for old in one.label[first].tolist()]),
        micro_batch=one.micro_batch[first],
        layer=one.layer[first] if by_layer else np.full(len(first), -1),
    )


def _columns(drawn: Sequence[_Drawn]) -> dict[str, Any]:
    """Return the columns of all classes as base64 text, and what they are relative to."""
    start = np.concatenate([one.start_ps for one in drawn])
    end = np.concatenate([one.end_ps for one in drawn])
    origin = int(start.min()) if len(start) else 0
    # 32 bits hold the whole stretch of time in steps of this many picoseconds.
    tick_ps = max(1, -(-(int(end.max(initial=0)) - origin) // (2**32 - 1)))
    ticks = ((start - origin) // tick_ps).astype("<u4")
    lengths = ((end - origin) // tick_ps).astype("<u4") - ticks
    micro_batch = np.concatenate([one.micro_batch for one in drawn])
    layer = np.concatenate([one.layer for one in drawn])
    # Two bytes hold the numbers of all but very long steps.
    short = bool(max(micro_batch.max(initial=0), layer.max(initial=0)) < 2**15)
    kind = "<i2" if short else "<i4"
    return {
        "short": short,
        "origin_s": origin / 1e12,
        "tick_s": tick_ps / 1e12,
        "start": packed(ticks),
        "length": packed(lengths),
        "label": packed(np.concatenate([one.label for one in drawn]).astype("<u4")),
        "mb": packed(micro_batch.astype(kind)),
        "layer": packed(layer.astype(kind)),
    }


def packed(column: NDArray[Any]) -> str:
    """Return the bytes of an array as base64 text."""
    return base64.b64encode(column.tobytes()).decode()
