"""The figures of the report as plain plotly specifications."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from desim.analyze.choose import drawn_classes
from desim.analyze.links import busiest, measured_window_ps, utilisation
from desim.analyze.memory import owners_at_peak, sampled
from desim.report import palette
from desim.report.timeline import packed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from desim.record import Memory, Record

    Figure = dict[str, Any]

_MAX_STAGES = 16
_MAX_LINKS = 14
_BINS = 480
_SAMPLES = 700
_MIN_LABELLED = 0.045
_GIB = 2.0**30
_GRID = "#e7eaee"
_SPACED = {"ticks": "outside", "ticklen": 5, "tickcolor": "#ffffff"}


def typed(column: NDArray[Any], kind: str = "f4") -> dict[str, str]:
    """Return an array in the form in which plotly reads base64."""
    return {"dtype": kind, "bdata": packed(column.astype(f"<{kind}"))}


def time_share_figure(
    overall: Mapping[str, float], stages: Mapping[str, Mapping[str, float]], step_time_s: float
) -> Figure:
    """Stacked bars: share of GPU time by category, of all ranks and of each stage."""
    bars = {"all ranks": overall, **({f"stage {s}": share for s, share in stages.items()})}
    if len(stages) < 2:
        bars = {"all ranks": overall}
    names = list(bars)[::-1]
    data = []
    for category, (words, colour) in palette.CATEGORIES.items():
        values = [bars[name].get(category, 0.0) for name in names]
        if any(value > 0 for value in values):
            data.append({
                "type": "bar", "orientation": "h", "name": words, "y": names,
                "x": [100 * value for value in values], "marker": {"color": colour},
                "customdata": [value * step_time_s for value in values],
                "text": [f"{100 * v:.1f}" if v >= _MIN_LABELLED else "" for v in values],
                "textposition": "inside", "insidetextanchor": "middle", "textangle": 0,
                "constraintext": "none", "textfont": {"size": 11, "color": _ink(colour)},
                "hovertemplate":
                    f"%{{y}}: {words} %{{x:.2f}} % = %{{customdata:.4g}} s<extra></extra>",
            })  # fmt: skip
    layout = {
        "barmode": "stack", "bargap": 0.25, "height": 110 + 30 * len(names),
        "margin": {"l": 84, "r": 36, "t": 44, "b": 44},
        "xaxis": {"range": [0, 100], "ticksuffix": " %", "gridcolor": _GRID, "fixedrange": True,
                  "title": {"text": "share of GPU time in the step", "standoff": 8}},
        "yaxis": {"fixedrange": True, **_SPACED, "tickfont": {"size": 12}},
        "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "traceorder": "normal"},
    }  # fmt: skip
    return {"data": data, "layout": layout}


def _ink(colour: str) -> str:
    """Return black or white, whichever reads better on a colour (ITU-R BT.601 luma)."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#ffffff" if 0.299 * red + 0.587 * green + 0.114 * blue < 150 else "#1c2530"


def memory_figures(record: Record) -> list[Figure]:
    """Stacked areas of memory by owner over time, one figure for each drawn rank class."""
    chosen = [index for index in drawn_classes(record, _MAX_STAGES) if index < len(record.memory)]
    origin_ps = measured_window_ps(record)[0]
    capacity = float(record.details.get("device_memory_bytes", 0.0)) / _GIB
    totals = [record.memory[index].peak_bytes / _GIB for index in chosen]
    top = max([*totals, capacity]) * 1.08 if chosen else 1.0
    figures = []
    for index in chosen:
        rank_class = record.classes[index]
        figure = _memory_figure(record.memory[index], origin_ps, capacity, top)
        title = f"stage {rank_class.stage}, rank {rank_class.representative} (x{rank_class.count})"
        figures.append({"title": title, **figure})
    return figures


def _memory_figure(memory: Memory, origin_ps: int, capacity: float, top: float) -> Figure:
    kept = sampled(memory, _SAMPLES)
    time = (np.maximum.accumulate(memory.time_ps)[kept] - origin_ps) / 1e12
    at_peak = owners_at_peak(memory)
    order = [*at_peak, *(owner for owner in memory.owners if owner not in at_peak)]
    data: list[dict[str, Any]] = []
    for number, owner in enumerate(order):
        values = memory.by_owner[memory.owners.index(owner)][kept] / _GIB
        if not values.any():
            continue
        colour = palette.OWNERS[number % len(palette.OWNERS)]
        data.append({
            "type": "scatter", "mode": "lines", "name": owner, "stackgroup": "memory",
            "x": typed(time, "f8"), "y": typed(values), "fillcolor": colour,
            "line": {"shape": "hv", "width": 0, "color": colour},
            "hovertemplate": "%{y:.2f} GiB",
        })  # fmt: skip
    # A stack is read from the bottom; what lasts lies there and what comes and goes on top.
    data.sort(key=lambda trace: _swing(memory, trace["name"]))
    peak = memory.peak_bytes / _GIB
    # Labels stand away from each other: above the upper line and below the lower one.
    above, below = "bottom", "top"
    side = below if capacity > peak else above
    lines = [(peak, f"peak {peak:.1f} GiB ({memory.peak_task})", "#1c2530", "dot", side)]
    if capacity:
        side = above if capacity > peak else below
        lines.append((capacity, f"device memory {capacity:.0f} GiB", "#b3261e", "dash", side))
    layout = {
        "height": 330, "hovermode": "x unified", "margin": {"l": 62, "r": 24, "t": 44, "b": 46},
        "xaxis": {"title": {"text": "time (s)", "standoff": 8}, "gridcolor": _GRID},
        "yaxis": {"title": {"text": "GiB"}, "range": [0, top], "gridcolor": _GRID,
                  "fixedrange": True},
        "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "traceorder": "normal"},
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
    return {"data": data, "layout": layout}


def _swing(memory: Memory, owner: str) -> float:
    values = memory.by_owner[memory.owners.index(owner)]
    return float(values.max() - values.min())


def link_figure(record: Record) -> Figure:
    """Heat map of the utilisation of the busiest link classes over time."""
    uses = busiest(record)[:_MAX_LINKS][::-1]
    begin, finish = measured_window_ps(record)
    edges = np.linspace(begin, finish, _BINS + 1)
    rows = [utilisation(use.link, edges) * 100 for use in uses]
    shares = np.array(rows).reshape(len(rows), _BINS)
    names = [f"{use.link.name}  {100 * use.mean:.1f} %" for use in uses]
    middles = (edges[1:] + edges[:-1]) / 2 - begin
    figure = {
        "type": "heatmap", "x": typed(middles / 1e12, "f8"), "y": names,
        "z": {**typed(shares), "shape": f"{len(rows)}, {_BINS}"}, "zmin": 0, "zmax": 100, "ygap": 2,
        "colorscale": [[0, "#f3f5f8"], [0.05, "#cfe0f1"], [0.5, "#3f86c7"], [1, "#0b2a4d"]],
        "colorbar": {"ticksuffix": " %", "thickness": 12, "outlinewidth": 0, "len": 1},
        "hovertemplate": "%{y}<br>at %{x:.4f} s: %{z:.1f} %<extra></extra>",
    }  # fmt: skip
    layout = {
        "height": max(150, 90 + 26 * len(rows)), "margin": {"l": 40, "r": 16, "t": 12, "b": 46},
        "xaxis": {"title": {"text": "time (s)", "standoff": 8}, "showgrid": False},
        "yaxis": {"automargin": True, "fixedrange": True, **_SPACED},
    }  # fmt: skip
    return {"data": [figure] if rows else [], "layout": layout}


def ranked_figure(bars: Sequence[tuple[str, float, str]], axis: str, limit: int = 12) -> Figure:
    """Horizontal bars of (words, seconds, colour), largest first, the rest summed up."""
    ordered = sorted(bars, key=lambda bar: -bar[1])
    shown = ordered[:limit]
    if len(ordered) > limit:
        shown.append(("all others", sum(bar[1] for bar in ordered[limit:]), "#9aa3ad"))
    shown = shown[::-1]
    scale, unit = (1.0, "s") if ordered and ordered[0][1] >= 0.5 else (1e3, "ms")
    values = [bar[1] * scale for bar in shown]
    data = [{
        "type": "bar", "orientation": "h", "y": [_shortened(bar[0]) for bar in shown], "x": values,
        "marker": {"color": [bar[2] for bar in shown]},
        "text": [f"{value:.3g}" for value in values],
        "textposition": "outside", "cliponaxis": False, "textfont": {"size": 11},
        "hovertext": [bar[0] for bar in shown],
        "hovertemplate": f"%{{hovertext}}: %{{x:.4g}} {unit}<extra></extra>",
    }]  # fmt: skip
    layout = {
        "height": 86 + 26 * len(shown), "margin": {"l": 30, "r": 44, "t": 8, "b": 46},
        "bargap": 0.25, "showlegend": False,
        "xaxis": {"title": {"text": f"{axis} ({unit})", "standoff": 8}, "gridcolor": _GRID,
                  "fixedrange": True, "rangemode": "tozero"},
        "yaxis": {"automargin": True, "fixedrange": True, **_SPACED},
    }  # fmt: skip
    return {"data": data if values else [], "layout": layout}


def _shortened(text: str, length: int = 44) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."
