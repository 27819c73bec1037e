"""The table that a sweep prints: the best points, and what failed and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from desim.report.points import short_names

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from desim.report.points import Points

_WIDTH = 100
_BEST = 10
_REASONS = 5
_GIB = 2.0**30
_WIDEST = 28
#: Objectives that have a column of their own anyway.
_SHOWN = ("step_time_s", "mfu")


def sweep_text(points: Points) -> str:
    """Return the best points, what failed and why as plain text of about 100 columns."""
    return "\n".join(line.rstrip() for line in _lines(points)) + "\n"


def _lines(points: Points) -> Iterator[str]:
    total, failed, ranked = len(points.rows), len(points.failed), points.ranked
    out = total - failed - len(ranked)
    counts = f"{total:,} points" if total != 1 else "1 point"
    beyond = f", {out:,} outside the constraints" if out else ""
    yield f"{points.name}: {counts}, {failed:,} failed{beyond}"
    yield ""
    under = f" with {', '.join(points.constraints)}" if points.constraints else ""
    if ranked:
        shown = f"the best {_BEST}" if len(ranked) > _BEST else "best first"
        yield f"{points.looked_for}{under} ({shown})"
        yield from _table(points, ranked[:_BEST])
    elif failed < total:
        yield f"no point is in reach: {points.looked_for}{under}"
    reasons = points.reasons()
    if reasons:
        yield ""
        yield "failed"
    for reason, count in reasons[:_REASONS]:
        room = _WIDTH - 10
        yield f"  {count:>5,} x {reason if len(reason) <= room else reason[: room - 3] + '...'}"
    if len(reasons) > _REASONS:
        rest = sum(count for _, count in reasons[_REASONS:])
        yield f"  {rest:>5,} x other reasons (column error of points.csv)"


def _table(points: Points, numbers: Sequence[int]) -> Iterator[str]:
    names = short_names(points.varied)
    heads = [*names.values(), *_heads(points)]
    best = points.costs[numbers[0]]
    cells = [
        [*(_short(points.rows[i][axis]) for axis in names), *_values(points, i, best)]
        for i in numbers
    ]
    widths = [max(len(row[k]) for row in [heads, *cells]) for k in range(len(heads))]
    for row in [heads, *cells]:
        yield "  " + "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))


def _heads(points: Points) -> list[str]:
    own = [] if points.objective in _SHOWN else [points.objective]
    return [*own, "step (s)", "behind best", "MFU (%)", "memory (GiB)", "fits"]


def _values(points: Points, number: int, best: float) -> list[str]:
    row = points.rows[number]
    own = [] if points.objective in _SHOWN else [f"{row[points.objective]:.5g}"]
    apart = f"{100 * (points.costs[number] - best) / abs(best):.2f} %" if best else ""
    return [
        *own,
        f"{row['step_time_s']:.4f}",
        apart,
        f"{100 * row['mfu']:.2f}",
        f"{needed_gib(row):.1f}",
        "yes" if row["fits"] else "NO",
    ]


def needed_gib(row: Mapping[str, Any]) -> float:
    """What the fullest stage needs of its device, in GiB."""
    stages = [key.rpartition(".")[2] for key in row if key.startswith("peak_memory_bytes.")]
    needed = [
        max(float(row[f"peak_memory_bytes.{s}"]), float(row[f"peak_reserved_bytes.{s}"]))
        + float(row[f"outside_memory_bytes.{s}"])
        for s in stages
        if s != "max"
    ]
    return max(needed) / _GIB


def _short(value: object) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= _WIDEST else text[: _WIDEST - 3] + "..."
