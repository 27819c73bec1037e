"""A study's points as the reports read them: ranked by an objective under constraints."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Objectives that every table and figure shows anyway.
SHOWN = ("step_time_s", "mfu")
_GIB = 2.0**30


@dataclass(frozen=True, slots=True)
class Points:
    """Rows of points with what is looked for.

    `costs` are smaller the better a point is (infinite: it has none), `meets` says which meet all
    constraints. `objective` names the scalar, of which the largest is best where `maximise`.
    """

    name: str
    axes: tuple[str, ...]
    rows: Sequence[Mapping[str, Any]]
    objective: str
    maximise: bool
    constraints: tuple[str, ...]
    costs: Sequence[float]
    meets: Sequence[bool]

    @property
    def looked_for(self) -> str:
        """What is best, in words."""
        return f"{'largest' if self.maximise else 'smallest'} {self.objective}"

    @property
    def ranked(self) -> list[int]:
        """Points that meet the constraints, best first; equal ones in the study's order."""
        good = [i for i, cost in enumerate(self.costs) if self.meets[i] and math.isfinite(cost)]
        return sorted(good, key=lambda i: (self.costs[i], i))

    @property
    def failed(self) -> list[int]:
        """Points that could not be played."""
        return [i for i, row in enumerate(self.rows) if row["error"]]

    @property
    def varied(self) -> tuple[str, ...]:
        """Axes with more than one value among the points."""
        return tuple(a for a in self.axes if len({str(row[a]) for row in self.rows}) > 1)

    def reasons(self) -> list[tuple[str, int]]:
        """Why points failed and how many did for each reason, the most frequent first."""
        counts: dict[str, int] = {}
        for number in self.failed:
            reason = str(self.rows[number]["error"])
            counts[reason] = counts.get(reason, 0) + 1
        return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """Return the shortest endings of dotted paths that tell them apart."""
    result = {}
    for path in paths:
        parts = path.split(".")
        for length in range(1, len(parts) + 1):
            ending = parts[-length:]
            if sum(other.split(".")[-length:] == ending for other in paths) == 1:
                break
        result[path] = ".".join(ending)
    return result


def label(value: object) -> str:
    """Write a value of an axis as the reports show it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def needed_gib(row: Mapping[str, Any]) -> float:
    """Return what the fullest stage needs of its device, in GiB."""
    stages = [key.rpartition(".")[2] for key in row if key.startswith("peak_memory_bytes.")]
    needed = [
        max(float(row[f"peak_memory_bytes.{s}"]), float(row[f"peak_reserved_bytes.{s}"]))
        + float(row[f"outside_memory_bytes.{s}"])
        for s in stages
        if s != "max"
    ]
    return max(needed) / _GIB


def best_rows(points: Points, most: int) -> list[list[str]]:
    """Return the table of the best points as texts: its heads, then at most `most` of them.

    Behind the axes stands the objective where no other column shows it.
    """
    names = short_names(points.varied)
    own = () if points.objective in SHOWN else (points.objective,)
    heads = [*names.values(), *own, "step (s)", "behind best", "MFU (%)", "memory (GiB)", "fits"]
    rows = [heads]
    for number in points.ranked[:most]:
        row = points.rows[number]
        rows.append([
            *(label(row[axis]) for axis in names),
            *(f"{row[name]:.5g}" for name in own),
            f"{row['step_time_s']:.4f}",
            _behind(points.costs[number], points.costs[points.ranked[0]]),
            f"{100 * row['mfu']:.2f}",
            f"{needed_gib(row):.1f}",
            "yes" if row["fits"] else "NO",
        ])  # fmt: skip
    return rows


def _behind(cost: float, best: float) -> str:
    return f"{100 * (cost - best) / abs(best):.2f} %" if best else ""


def front(pairs: Sequence[tuple[float, float]]) -> list[int]:
    """Return which of (x, y) no other is at most as large as in both, by x (Pareto's front)."""
    order = sorted(range(len(pairs)), key=lambda i: (*pairs[i], i))
    best, kept = math.inf, []
    for number in order:
        if pairs[number][1] < best:
            best = pairs[number][1]
            kept.append(number)
    return kept
