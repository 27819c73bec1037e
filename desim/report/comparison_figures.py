"""The figures of a comparison as plain plotly specifications."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from desim.analyze.difference import category_seconds
from desim.report import palette
from desim.report.figures import GRID, SPACED, shortened
from desim.units import show

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from desim.report.compared import Compared
    from desim.report.figures import Figure

_RED = "#b3261e"
#: Runs beside each other: colours that stay apart for colour-blind readers.
_RUNS = ("#2f6db3", "#e69f00", "#0f7f5c", "#cc79a7", "#56b4e9", "#d55e00", "#7b5cab", "#8f98a3")
_MIN_LABELLED = 0.03
_GIB = 2.0**30


def time_figure(runs: Sequence[Compared]) -> Figure:
    """Stacked bars: the step of each run, as long as it takes, by where the time of GPUs went."""
    longest = max(run.step_time_s for run in runs)
    data = _bars(runs, [category_seconds(run.summary) for run in runs], _MIN_LABELLED * longest)
    layout = _layout(runs, "step time, mean of all GPUs (ms)")
    layout["annotations"] = [
        {"text": f"{show(run.step_time_s, 's')}", "x": 1e3 * run.step_time_s, "y": number,
         "xanchor": "left", "xshift": 5, "showarrow": False, "font": {"size": 11}}
        for number, run in enumerate(runs)
    ]  # fmt: skip
    layout["xaxis"]["range"] = [0, 1.08e3 * longest]
    return {"data": data, "layout": layout}


def difference_figure(runs: Sequence[Compared]) -> Figure:
    """Bars to both sides of nothing: what each run spends more and less on than the first."""
    others = list(runs[1:])
    changes = [run.difference.by_category for run in others]
    reach = max(sum(abs(v) for v in one.values()) for one in changes)
    data = _bars(others, changes, 0.03 * reach)
    data.append({
        "type": "scatter", "mode": "markers", "name": "step", "showlegend": True,
        "x": [1e3 * run.difference.step_time_s for run in others],
        "y": [number - 0.42 for number in range(len(others))],
        "marker": {"symbol": "triangle-down", "size": 10, "color": "#1c2530",
                   "line": {"color": "#fff", "width": 1.5}},
        "hovertext": [run.name for run in others],
        "hovertemplate": "%{hovertext}: step %{x:+.1f} ms<extra></extra>",
    })  # fmt: skip
    layout = _layout(others, f"difference to {runs[0].name} (ms)")
    layout["barmode"] = "relative"
    layout["xaxis"] |= {"zeroline": True, "zerolinecolor": "#5b6672", "zerolinewidth": 1.5}
    return {"data": data, "layout": layout}


def _bars(
    runs: Sequence[Compared], seconds: Sequence[Mapping[str, float]], labelled_s: float
) -> list[dict[str, Any]]:
    """Return a stacked bar for each run, in milliseconds; large parts bear their number."""
    data: list[dict[str, Any]] = []
    for category, (words, colour, _) in palette.CATEGORIES.items():
        values = [one.get(category, 0.0) for one in seconds]
        if not any(values):
            continue
        data.append({
            "type": "bar", "orientation": "h", "name": words, "y": list(range(len(runs))),
            "x": [1e3 * value for value in values], "marker": {"color": colour},
            "hovertext": [run.name for run in runs],
            "text": [f"{1e3 * v:.1f}" if abs(v) >= labelled_s else "" for v in values],
            "textposition": "inside", "insidetextanchor": "middle", "textangle": 0,
            "constraintext": "none", "textfont": {"size": 11, "color": palette.ink(colour)},
            "hovertemplate": f"%{{hovertext}}: {words} %{{x:.2f}} ms<extra></extra>",
        })  # fmt: skip
    return data


def _layout(runs: Sequence[Compared], title: str) -> dict[str, Any]:
    """Return the layout of a bar for each run, the first on top."""
    return {
        "barmode": "stack", "bargap": 0.25, "height": 96 + 30 * len(runs),
        "margin": {"l": 84, "r": 36, "t": 36, "b": 46},
        "xaxis": {"gridcolor": GRID, "fixedrange": True,
                  "title": {"text": title, "standoff": 8}},
        "yaxis": {"fixedrange": True, "automargin": True, **SPACED, "tickfont": {"size": 12},
                  "tickvals": list(range(len(runs))), "range": [len(runs) - 0.5, -0.5],
                  "ticktext": [shortened(run.name) for run in runs]},
        "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "traceorder": "normal"},
    }  # fmt: skip


def memory_figure(runs: Sequence[Compared]) -> Figure:
    """Bars: the peak of allocated memory of every stage, of all runs beside each other."""
    stages = sorted({int(s) for run in runs for s in run.summary["peak_memory_bytes"]})
    data = [
        {
            "type": "bar", "name": run.name, "x": [f"stage {stage}" for stage in stages],
            "y": [_peak(run, stage) for stage in stages],
            "marker": {"color": palette.shade(_RUNS[at % len(_RUNS)], at // len(_RUNS), 4)},
            "hovertemplate": f"{shortened(run.name)}, %{{x}}: %{{y:.1f}} GiB<extra></extra>",
        }
        for at, run in enumerate(runs)
    ]  # fmt: skip
    capacities = sorted({run.capacity_bytes / _GIB for run in runs if run.capacity_bytes})
    layout = {
        "barmode": "group", "bargap": 0.25, "height": 330,
        "margin": {"l": 60, "r": 36, "t": 36, "b": 40},
        "xaxis": {"fixedrange": True, "type": "category"},
        "yaxis": {"title": {"text": "GiB", "standoff": 6}, "gridcolor": GRID, "fixedrange": True,
                  "rangemode": "tozero"},
        "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "traceorder": "normal"},
        "shapes": [
            {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": level, "y1": level,
             "line": {"color": _RED, "width": 1.5, "dash": "dash"}}
            for level in capacities
        ],
        "annotations": [
            {"text": f"device memory {level:.1f} GiB", "xref": "paper", "x": 1, "xanchor": "right",
             "y": level, "yanchor": "bottom", "showarrow": False,
             "font": {"size": 11, "color": _RED}}
            for level in capacities
        ],
    }  # fmt: skip
    return {"data": data, "layout": layout}


def _peak(run: Compared, stage: int) -> float | None:
    size = run.summary["peak_memory_bytes"].get(str(stage))
    return None if size is None else float(size) / _GIB
