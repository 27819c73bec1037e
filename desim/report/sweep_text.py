"""The table that a sweep prints: the best points, and what failed and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from desim.report.points import best_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from desim.report.points import Points

_WIDTH = 100
_BEST = 10
_REASONS = 5
_WIDEST = 28


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
        yield from _table(points)
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


def _table(points: Points) -> Iterator[str]:
    rows = [[_short(cell) for cell in row] for row in best_rows(points, _BEST)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  " + "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))


def _short(text: str) -> str:
    return text if len(text) <= _WIDEST else text[: _WIDEST - 3] + "..."
