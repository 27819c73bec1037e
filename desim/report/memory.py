"""The report's figures of memory over time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from desim.analyze.choose import drawn_classes
from desim.analyze.links import measured_window_ps
from desim.analyze.memory import sampled
from desim.report import palette
from desim.report.figures import GRID, LEFT, RIGHT, time_axis, typed

if TYPE_CHECKING:
    from desim.record import Memory, Record
    from desim.report.figures import Figure

_MAX_CLASSES = 16
_SAMPLES = 700
_GIB = 2.0**30
_RED, _INK = "#b3261e", "#1c2530"


def memory_figures(record: Record) -> dict[str, Any]:
    """Return stacked areas of memory by owner over time: a figure for each drawn rank class.

    `first` is the one to show first: that of the largest peak.
    """
    chosen = [index for index in drawn_classes(record, _MAX_CLASSES) if index < len(record.memory)]
    capacity = float(record.details.get("device_memory_bytes", 0.0)) / _GIB
    peaks = [record.memory[index].peak_bytes / _GIB for index in chosen]
    top = max([*peaks, capacity]) * 1.1 if chosen else 1.0
    figures = []
    for index, peak in zip(chosen, peaks, strict=True):
        held = record.classes[index]
        title = f"stage {held.stage}, rank {held.representative} (x{held.count}): {peak:.1f} GiB"
        figures.append({"title": title, **_figure(record, index, capacity, top)})
    return {"figures": figures, "first": int(np.argmax(peaks)) if peaks else 0}


def _figure(record: Record, index: int, capacity: float, top: float) -> Figure:
    memory = record.memory[index]
    begin, finish = measured_window_ps(record)
    lines = [_peak_line(memory, capacity)]
    if capacity:
        text = f"device memory {capacity:.1f} GiB"
        lines.append((capacity, text, _RED, "dash", "bottom"))
    layout = {
        "height": 330, "hovermode": "x unified",
        "margin": {"l": LEFT, "r": RIGHT, "t": 10, "b": 46},
        "xaxis": time_axis((finish - begin) / 1e12),
        "yaxis": {"title": {"text": "GiB", "standoff": 6}, "range": [0, top], "gridcolor": GRID,
                  "fixedrange": True},
        # Owners stand in the order of the stack, left of the axis.
        "legend": {"xref": "container", "x": 0, "xanchor": "left", "y": 0, "yanchor": "bottom",
                   "traceorder": "reversed", "font": {"size": 11}, "itemwidth": 30},
        "shapes": [
            {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": level, "y1": level,
             "line": {"color": colour, "width": 1.5, "dash": dash}}
            for level, _, colour, dash, _ in lines
        ],
        "annotations": [
            {"text": text, "xref": "paper", "x": 1, "xanchor": "right", "y": level,
             "yanchor": side, "showarrow": False, "font": {"size": 11, "color": colour},
             "bgcolor": "rgba(255,255,255,0.7)"}
            for level, text, colour, _, side in lines
        ],
    }  # fmt: skip
    return {"data": _areas(memory, begin, finish), "layout": layout}


def _peak_line(memory: Memory, capacity: float) -> tuple[float, str, str, str, str]:
    """Return the line at the peak; its label stands below it where the device's would be above."""
    peak = memory.peak_bytes / _GIB
    near = 0 < capacity - peak < 0.1 * capacity
    text = f"peak {peak:.1f} GiB, at {memory.peak_task}"
    return peak, text, _INK, "dot", "top" if near else "bottom"


def _areas(memory: Memory, begin_ps: int, finish_ps: int) -> list[dict[str, Any]]:
    """Return the owners' areas, from what lasts at the bottom to what comes and goes on top."""
    kept = sampled(memory, _SAMPLES)
    # The ledger runs in issue order; the device may reach tasks of two lanes in another.
    time_ps = np.maximum.accumulate(memory.time_ps)[kept].clip(begin_ps, finish_ps)
    # What is held at either end of the ledger is held to the end of the step.
    time = (np.array([begin_ps, *time_ps.tolist(), finish_ps]) - begin_ps) / 1e12
    kept = np.concatenate([kept[:1], kept, kept[-1:]])
    data: list[dict[str, Any]] = []
    for owner in sorted(memory.owners, key=lambda owner: (_swing(memory, owner), owner)):
        values = memory.by_owner[memory.owners.index(owner)][kept] / _GIB
        if not values.any():
            continue
        colour = palette.owner_colour(owner, len(data))
        data.append({
            "type": "scatter", "mode": "lines", "name": owner, "stackgroup": "memory",
            "x": typed(time, "f8"), "y": typed(values), "fillcolor": colour,
            "line": {"shape": "hv", "width": 0, "color": colour},
            "hovertemplate": "%{y:.2f} GiB",
        })  # fmt: skip
    return data


def _swing(memory: Memory, owner: str) -> float:
    values = memory.by_owner[memory.owners.index(owner)]
    return float(values.max() - values.min())
