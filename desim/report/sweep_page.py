"""The page of a sweep: one HTML file that needs nothing else."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

from desim.report.assets import warning_boxes, write_page
from desim.report.cards import Card
from desim.report.page import card_html
from desim.report.points import best_rows, label, needed_gib, short_names
from desim.report.sweep_figures import (
    cost_front,
    heat_data,
    memory_front,
    parallel_figure,
)

if TYPE_CHECKING:
    from pathlib import Path

    from desim.report.points import Points

#: More points than this make a page that no browser likes: the best are drawn.
MOST = 20_000
_LISTED = 200


def write_sweep_page(points: Points, path: Path) -> None:
    """Write the page of a study: best points, heat map, parallel coordinates, Pareto fronts."""
    numbers = _drawn(points)
    left_out = len(points.rows) - len(numbers)
    parts = {
        "cards": "".join(map(card_html, _cards(points))),
        "warnings": _warnings(points, left_out),
        "table": _table(points),
    }
    write_page(
        path,
        "sweep.html",
        parts,
        title=points.name,
        subtitle=_subtitle(points),
        styles=("page.css", "sweep.css"),
        code=("common.js", "sweep.js"),
        data=_data(points, numbers),
    )


def _drawn(points: Points) -> list[int]:
    """The points that the figures show, in the study's order."""
    if len(points.rows) <= MOST:
        return list(range(len(points.rows)))
    return sorted(sorted(range(len(points.rows)), key=lambda i: (points.costs[i], i))[:MOST])


def _subtitle(points: Points) -> str:
    under = f" with {', '.join(points.constraints)}" if points.constraints else ""
    return f"{len(points.rows):,} points; {points.looked_for}{under}"


def _cards(points: Points) -> list[Card]:
    ranked, failed = points.ranked, len(points.failed)
    counts = Card(
        what="points played",
        value=f"{len(points.rows) - failed:,}",
        unit=f"of {len(points.rows):,}",
        more=f"{failed:,} failed" if failed else "none failed",
        bad=failed == len(points.rows),
    )
    if not ranked:
        return [counts]
    best = points.rows[ranked[0]]
    where = ", ".join(
        f"{name} {label(best[axis])}" for axis, name in short_names(points.varied).items()
    )
    behind = max(points.costs[i] for i in ranked) - points.costs[ranked[0]]
    apart = 100 * behind / abs(points.costs[ranked[0]]) if behind else 0.0
    return [
        Card("best point", f"{best['step_time_s']:.4f}", "s", where),
        Card("its MFU", f"{100 * best['mfu']:.1f}", "%"),
        Card("its memory", f"{needed_gib(best):.1f}", "GiB", "of the fullest stage"),
        Card("last behind best", f"{apart:.1f}", "%", f"{points.objective}, of {len(ranked):,}"),
        counts,
    ]


def _warnings(points: Points, left_out: int) -> str:
    lines = [f"{count:,} x {reason}" for reason, count in points.reasons()[:5]]
    if left_out:
        lines.append(f"{left_out:,} points are in points.csv only; the figures show the best")
    return warning_boxes(lines)


def _table(points: Points) -> str:
    """The best points as rows of a table."""
    heads, *rows = best_rows(points, _LISTED)
    lines = ["".join(f"<th>{html.escape(head)}</th>" for head in heads)]
    lines += ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
    return "".join(f"<tr>{line}</tr>" for line in lines)


def _data(points: Points, numbers: list[int]) -> dict[str, Any]:
    return {
        "heat": heat_data(points, numbers),
        "parallel": parallel_figure(points, numbers),
        "memory": memory_front(points, numbers),
        "cost": cost_front(points, numbers),
    }
