"""The figures of the report as plain plotly specifications."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from desim.analyze.links import measured_window_ps, utilisation
from desim.report import palette
from desim.report.links import link_rows
from desim.report.timeline import packed
from desim.units import show

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from desim.record import Record
    from desim.report.links import LinkRow

    Figure = dict[str, Any]

_MAX_ROWS_OF_KIND = 8
_BINS = 600
_MIN_LABELLED = 0.022
_MANY_BARS = 17
GRID = "#e7eaee"
SPACED = {"ticks": "outside", "ticklen": 5, "tickcolor": "#ffffff"}
#: Left and right margin of every figure over time, so that their times stand above each other.
LEFT, RIGHT = 196, 62


def typed(column: NDArray[Any], kind: str = "f4") -> dict[str, str]:
    """Return an array in the form in which plotly reads base64."""
    return {"dtype": kind, "bdata": packed(column.astype(f"<{kind}"))}


def time_axis(step_time_s: float) -> dict[str, Any]:
    """Return the axis of time since the step's start, which all figures over time share."""
    return {
        "title": {"text": "time since the step's start (s)", "standoff": 8},
        "range": [0, step_time_s], "gridcolor": GRID, "zeroline": False,
    }  # fmt: skip


def time_share_figure(
    overall: Mapping[str, float], stages: Mapping[str, Mapping[str, float]], step_time_s: float
) -> Figure:
    """Stacked bars: share of GPU time by category, of all ranks and of each stage."""
    bars = {"all ranks": overall}
    if len(stages) > 1:
        bars |= {f"stage {stage}": share for stage, share in stages.items()}
    names = list(bars)[::-1]
    data = []
    for category, (words, colour, _) in palette.CATEGORIES.items():
        values = [bars[name].get(category, 0.0) for name in names]
        if any(value > 0 for value in values):
            data.append({
                "type": "bar", "orientation": "h", "name": words, "y": names,
                "x": [100 * value for value in values], "marker": {"color": colour},
                "customdata": [show(value * step_time_s, "s") for value in values],
                "text": [f"{100 * v:.1f}" if v >= _MIN_LABELLED else "" for v in values],
                "textposition": "inside", "insidetextanchor": "middle", "textangle": 0,
                "constraintext": "none", "textfont": {"size": 11, "color": palette.ink(colour)},
                "hovertemplate": f"%{{y}}: {words} %{{x:.2f}} % = %{{customdata}}<extra></extra>",
            })  # fmt: skip
    layout = {
        "barmode": "stack", "bargap": 0.2,
        "height": 96 + (28 if len(names) < _MANY_BARS else 18) * len(names),
        "margin": {"l": 84, "r": 36, "t": 36, "b": 46},
        "xaxis": {"range": [0, 100], "ticksuffix": " %", "gridcolor": GRID, "fixedrange": True,
                  "title": {"text": "share of GPU time in the step", "standoff": 8}},
        "yaxis": {"fixedrange": True, **SPACED, "tickfont": {"size": 12}},
        "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "traceorder": "normal"},
    }  # fmt: skip
    return {"data": data, "layout": layout}


def link_figure(record: Record) -> Figure:
    """Heat map of the utilisation of link classes over time, the busiest of each kind."""
    rows = _shown(link_rows(record))
    begin, finish = measured_window_ps(record)
    edges = np.linspace(begin, finish, _BINS + 1)
    shares = np.array([_use(row, edges) for row in rows]).reshape(len(rows), _BINS)
    middles = (edges[1:] + edges[:-1]) / 2 - begin
    titles = [str(row.title) for row in rows]
    figure = {
        "type": "heatmap", "x": typed(middles / 1e12, "f8"), "y": titles,
        "z": {**typed(shares), "shape": f"{len(rows)}, {_BINS}"}, "zmin": 0, "zmax": 100, "ygap": 2,
        "colorscale": [[0, "#f3f5f8"], [0.05, "#cfe0f1"], [0.5, "#3f86c7"], [1, "#0b2a4d"]],
        "colorbar": {"ticksuffix": " %", "thickness": 10, "outlinewidth": 0, "orientation": "h",
                     "len": 240, "lenmode": "pixels", "x": 0.99, "xanchor": "right", "y": 1,
                     "yanchor": "bottom", "ypad": 2, "tickfont": {"size": 10}},
        "hovertemplate": "%{y}<br>at %{x:.4f} s: %{z:.1f} %<extra></extra>",
    }  # fmt: skip
    means = [
        {"text": f"{100 * row.mean:.1f} %", "xref": "paper", "x": 1, "xanchor": "left", "xshift": 4,
         "y": title, "showarrow": False, "font": {"size": 11}}
        for title, row in zip(titles, rows, strict=True)
    ]  # fmt: skip
    head = {"text": "mean", "xref": "paper", "x": 1, "xanchor": "left", "xshift": 4,
            "yref": "paper", "y": 1, "yanchor": "bottom", "showarrow": False,
            "font": {"size": 11, "color": "#5b6672"}}  # fmt: skip
    layout = {
        "height": 88 + 21 * len(rows), "margin": {"l": LEFT, "r": RIGHT, "t": 42, "b": 46},
        "xaxis": {**time_axis((finish - begin) / 1e12), "showgrid": False},
        "yaxis": {"fixedrange": True, **SPACED, "tickfont": {"size": 11}},
        "annotations": [*means, head],
    }  # fmt: skip
    return {"data": [figure] if rows else [], "layout": layout}


def _shown(rows: Sequence[LinkRow]) -> list[LinkRow]:
    """Return the busiest rows of each kind, bottom first: kinds by use, within them by place."""
    kinds: dict[str, list[LinkRow]] = {}
    for row in rows:
        kinds.setdefault(row.title.what, []).append(row)
    shown = []
    for of_kind in kinds.values():
        chosen = {id(row) for row in of_kind[:_MAX_ROWS_OF_KIND]}
        placed = sorted(of_kind, key=lambda row: (row.title.way, row.numbers))
        shown += [row for row in placed if id(row) in chosen]
    return shown[::-1]


def _use(row: LinkRow, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the utilisation in percent; of two ways the busier."""
    busier: NDArray[np.float64] = np.max([utilisation(link, edges) for link in row.links], axis=0)
    return busier * 100


def ranked_figure(
    bars: Sequence[tuple[str, float, str]], whole_s: float, limit: int = 12
) -> Figure:
    """Horizontal bars of (words, seconds, colour), largest first, the rest summed up.

    Beside each stands its time and its share of `whole_s`.
    """
    ordered = sorted(bars, key=lambda bar: -bar[1])
    shown = ordered[:limit]
    if len(ordered) > limit:
        shown.append(("all others", sum(bar[1] for bar in ordered[limit:]), "#9aa3ad"))
    shown = shown[::-1]
    texts = [f"{show(time_s, 's', 3)} ({100 * time_s / whole_s:.1f} %)" for _, time_s, _ in shown]
    largest = max((time_s for _, time_s, _ in shown), default=0.0)
    data = [{
        "type": "bar", "orientation": "h", "y": [shortened(bar[0]) for bar in shown],
        "x": [100 * bar[1] / whole_s for bar in shown],
        "marker": {"color": [bar[2] for bar in shown]}, "text": texts,
        "textposition": "outside", "cliponaxis": False, "textfont": {"size": 11},
        "hovertext": [bar[0] for bar in shown],
        "hovertemplate": "%{hovertext}: %{text}<extra></extra>",
    }]  # fmt: skip
    layout = {
        "height": 60 + 25 * len(shown), "margin": {"l": 30, "r": 20, "t": 4, "b": 46},
        "bargap": 0.25, "showlegend": False,
        # A third of the width is left for the text beside the longest bar.
        "xaxis": {"title": {"text": "share of the step", "standoff": 8}, "gridcolor": GRID,
                  "fixedrange": True, "ticksuffix": " %", "range": [0, 140 * largest / whole_s]},
        "yaxis": {"automargin": True, "fixedrange": True, **SPACED},
    }  # fmt: skip
    return {"data": data if shown else [], "layout": layout}


def shortened(text: str, length: int = 44) -> str:
    """Return text that has room beside a figure."""
    return text if len(text) <= length else text[: length - 3] + "..."
