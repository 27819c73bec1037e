"""The figures of a study's page as plain plotly specifications."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from desim.analyze.metrics import RECKONED
from desim.report.figures import GRID
from desim.report.points import SHOWN, front, label, needed_gib, short_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from desim.report.points import Points

    Figure = dict[str, Any]

_BEST, _GOOD, _OUT = "#0f7f5c", "#2f6db3", "#cdd3da"
#: From the best to the last point; the palest can still be seen as a line.
_SCALE = [[0, "#0b2a4d"], [0.5, "#3f86c7"], [1, "#b9d3ec"]]
#: What parallel coordinates show beside the axes and the objective.
_BESIDE = (("step_time_s", "step (s)"), ("mfu", "MFU"))
_MAX_LABEL = 20
#: What a point costs, the first that all have: scalar and title.
_COSTS = tuple(
    (f"{key}_per_{many}", f"{title} per {many.replace('_', ' ')}")
    for key, title in (("cost", "cost"), ("device_hours", "GPU-hours"))
    for many, _ in RECKONED.values()
)


def values_of(points: Points, axis: str) -> list[str]:
    """Values of an axis in the order in which the points have them first."""
    return list(dict.fromkeys(label(row[axis]) for row in points.rows))


def heat_data(points: Points, numbers: Sequence[int]) -> dict[str, Any]:
    """What the heat map is drawn from: of each point its place on every axis and its values.

    The page chooses two axes; of the points that share a cell the best by the objective is shown.
    """
    names = short_names(points.varied)
    values = {axis: values_of(points, axis) for axis in names}
    places = {axis: {v: i for i, v in enumerate(found)} for axis, found in values.items()}
    return {
        "axes": [
            {
                "name": names[axis],
                "path": axis,
                "values": values[axis],
                "at": [places[axis][label(points.rows[i][axis])] for i in numbers],
            }
            for axis in names
        ],
        "objective": points.objective,
        "maximise": points.maximise,
        "shown": [_number(points.rows[i].get(points.objective)) for i in numbers],
        "cost": [_number(points.costs[i]) for i in numbers],
        "meets": [bool(points.meets[i]) for i in numbers],
        "failed": [str(points.rows[i]["error"])[:200] for i in numbers],
    }


def parallel_figure(points: Points, numbers: Sequence[int]) -> Figure:
    """Parallel coordinates of the played points: every axis, then what came of it."""
    played = [i for i in numbers if not points.rows[i]["error"]]
    if not played:
        return {"data": [], "layout": {}}
    dimensions: list[dict[str, Any]] = []
    for axis, name in short_names(points.varied).items():
        known = values_of(points, axis)
        at = {value: i for i, value in enumerate(known)}
        dimensions.append({
            "label": name, "tickvals": list(range(len(known))),
            "ticktext": [text[:_MAX_LABEL] for text in known],
            "values": [at[label(points.rows[i][axis])] for i in played],
            "range": [-0.05, max(len(known) - 1, 1) + 0.05],
        })  # fmt: skip
    for key, name in _BESIDE:
        dimensions.append({"label": name, "values": [points.rows[i][key] for i in played]})
    memory = [needed_gib(points.rows[i]) for i in played]
    dimensions.append({"label": "memory (GiB)", "values": memory})
    if points.objective not in SHOWN:
        own = [_number(points.rows[i].get(points.objective)) for i in played]
        dimensions.append({"label": points.objective, "values": own})
    colours = [_number(points.rows[i].get(points.objective)) for i in played]
    line = {"color": colours, "colorscale": _SCALE, "showscale": True,
            "reversescale": points.maximise,
            "colorbar": {"title": {"text": points.objective, "side": "right"}, "thickness": 10,
                         "outlinewidth": 0}}  # fmt: skip
    data = [{"type": "parcoords", "dimensions": dimensions, "line": line}]
    return {"data": data, "layout": {"height": 420, "margin": {"l": 90, "r": 60, "t": 56, "b": 24}}}


def memory_front(points: Points, numbers: Sequence[int]) -> Figure:
    """Step time against what the fullest stage needs of its device, with the Pareto front."""
    played = [i for i in numbers if not points.rows[i]["error"]]
    pairs = [(float(points.rows[i]["step_time_s"]), needed_gib(points.rows[i])) for i in played]
    return _front_figure(points, played, pairs, "memory of the fullest stage (GiB)")


def cost_front(points: Points, numbers: Sequence[int]) -> Figure:
    """Step time against what training costs, in money where all have a price, else in GPU-hours.

    Nothing where one is the other times a constant, as on equally many GPUs.
    """
    played = [i for i in numbers if not points.rows[i]["error"]]
    for key, title in _COSTS:
        costs = [_number(points.rows[i].get(key)) for i in played]
        pairs = [
            (float(points.rows[i]["step_time_s"]), cost)
            for i, cost in zip(played, costs, strict=True)
            if cost is not None
        ]
        ratios = [cost / step_s for step_s, cost in pairs]
        if played and len(pairs) == len(played) and min(ratios) < (1 - 1e-9) * max(ratios):
            return _front_figure(points, played, pairs, title)
    return {"data": [], "layout": {}}


def _front_figure(
    points: Points, played: Sequence[int], pairs: Sequence[tuple[float, float]], title: str
) -> Figure:
    """All points, those that meet the constraints apart, and the front of these."""
    good = [k for k, i in enumerate(played) if points.meets[i]]
    best = [good[k] for k in front([pairs[k] for k in good])]
    chosen = set(good)
    other = [k for k in range(len(played)) if k not in chosen]
    data = []
    for name, members, colour, mode in (
        ("outside the constraints", other, _OUT, "markers"),
        ("points", good, _GOOD, "markers"),
        ("Pareto front", best, _BEST, "lines+markers"),
    ):
        if members:
            data.append({
                "type": "scatter", "mode": mode, "name": name,
                "x": [pairs[k][0] for k in members], "y": [pairs[k][1] for k in members],
                "text": [_words(points, played[k]) for k in members],
                "marker": {"color": colour, "size": 9 if mode != "markers" else 7},
                "line": {"color": colour, "shape": "hv"},
                "hovertemplate": "%{text}<br>%{x:.4f} s, %{y:.4g}<extra></extra>",
            })  # fmt: skip
    layout = {
        "height": 380, "margin": {"l": 70, "r": 20, "t": 30, "b": 50},
        "xaxis": {"title": {"text": "step time (s)", "standoff": 8}, "gridcolor": GRID},
        "yaxis": {"title": {"text": title, "standoff": 8}, "gridcolor": GRID},
        "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"},
    }  # fmt: skip
    return {"data": data, "layout": layout}


def _words(points: Points, number: int) -> str:
    row, names = points.rows[number], short_names(points.varied)
    return "<br>".join(f"{name}: {label(row[axis])}" for axis, name in names.items())


def _number(value: Any) -> float | None:
    """A finite number, or nothing."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)
