"""Where a source varies one thing: rank correlation, and slope and intercept over micro-batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from desim.validate.measurements import Measurement
    from desim.validate.score import Scored

#: Rows of one sweep share these.
SWEEP = ("tier", "family", "model", "gpu", "num_gpus", "seq_len", "precision")
_FEWEST = 3
_NOT_OF_THE_JOB = ("id", "source", "notes", "global_batch", "repeat_of", "peak_memory_unit")


@dataclass(frozen=True, slots=True)
class Line:
    """Step times over numbers of micro-batches, rows equal in all else.

    `slope_error` is the signed relative error of the time per micro-batch, `intercept_error` the
    difference of the times at no micro-batch, as a share of the shortest measured step.
    """

    family: str
    ids: tuple[str, ...]
    slope_error: float
    intercept_error: float


def spearman(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation, equal values sharing their mean rank.

    None where there are fewer than two values or all are equal on one side.
    """
    if len(a) < 2 or len(set(a)) == 1 or len(set(b)) == 1:
        return None
    ranks = pd.Series(a).rank().to_numpy(), pd.Series(b).rank().to_numpy()
    return float(np.corrcoef(*ranks)[0, 1])


def correlations(
    rows: Mapping[str, Measurement], scored: Iterable[Scored]
) -> dict[str, dict[str, Any]]:
    """Return by family how well desim orders the configurations that its source tried.

    `step_time`: over all step times of the family. `within`: over GPU-seconds per sample and token
    inside each sweep, the mean weighted by rows; a sweep is at least three rows of one family that
    share tier, model, GPU, number of GPUs, sequence length and precision, so that what is ordered
    is how to run a job on given hardware. None where nothing varies.
    """
    by_family: dict[str, list[Scored]] = {}
    for one in scored:
        by_family.setdefault(one.family, []).append(one)
    found = {}
    for family, members in sorted(by_family.items()):
        inner = [(s, c) for s in _sweeps(rows, members) if (c := _within(rows, s)) is not None]
        counted = sum(len(sweep) for sweep, _ in inner)
        mean = sum(len(sweep) * value for sweep, value in inner) / counted if inner else None
        found[family] = {
            "rows": len(members),
            "step_time": spearman([m.measured for m in members], [m.simulated for m in members]),
            "sweeps": len(inner),
            "rows_in_sweeps": counted,
            "within": mean,
        }
    return found


def _sweeps(rows: Mapping[str, Measurement], members: Iterable[Scored]) -> list[list[Scored]]:
    found: dict[tuple[str, ...], list[Scored]] = {}
    for one in members:
        row = rows[one.id]
        key = (row.tier, row.family, *(row.cells.get(c, "") for c in SWEEP[2:]))
        found.setdefault(key, []).append(one)
    return [sweep for sweep in found.values() if len(sweep) >= _FEWEST]


def _within(rows: Mapping[str, Measurement], sweep: Sequence[Scored]) -> float | None:
    """Correlation of step time per sample; devices and sequence are equal inside a sweep."""
    batches = [rows[one.id].number("global_batch") or 1.0 for one in sweep]
    return spearman(
        [one.measured / batch for one, batch in zip(sweep, batches, strict=True)],
        [one.simulated / batch for one, batch in zip(sweep, batches, strict=True)],
    )


def micro_batch_lines(rows: Mapping[str, Measurement], scored: Iterable[Scored]) -> list[Line]:
    """Return a line for each set of rows that are equal but for their global batch.

    Straight lines by least squares, errors relative (weights 1 / time squared).
    """
    sets: dict[tuple[str, ...], list[tuple[float, Scored]]] = {}
    for one in scored:
        count = _micro_batches(rows[one.id])
        if count is not None:
            sets.setdefault(_all_else(rows[one.id]), []).append((count, one))
    lines = []
    for members in sets.values():
        counts = [count for count, _ in members]
        if len(set(counts)) < 2:
            continue
        measured = [one.measured for _, one in members]
        slope, intercept = _fit(counts, measured, measured)
        ours, ours_at_none = _fit(counts, [one.simulated for _, one in members], measured)
        if slope > 0:
            lines.append(
                Line(
                    family=members[0][1].family,
                    ids=tuple(one.id for _, one in members),
                    slope_error=ours / slope - 1.0,
                    intercept_error=(ours_at_none - intercept) / min(measured),
                )
            )
    return lines


def _micro_batches(row: Measurement) -> float | None:
    """Micro-batches per step and replica, None where the row does not say."""
    batch, size = row.number("global_batch"), row.number("micro_batch")
    data = row.number("dp")
    if batch is None or size is None or data is None:
        return None
    return batch / (size * data)


def _all_else(row: Measurement) -> tuple[str, ...]:
    return tuple(
        value
        for name, value in row.cells.items()
        if name not in _NOT_OF_THE_JOB and not name.startswith("measured_")
    )


def _fit(
    counts: Sequence[float], times: Sequence[float], scale: Sequence[float]
) -> tuple[float, float]:
    """Slope and intercept, each point weighted by 1 / scale squared."""
    weights = 1.0 / np.array(scale)
    matrix = np.column_stack([counts, np.ones(len(counts))]) * weights[:, None]
    solved, *_ = np.linalg.lstsq(matrix, np.array(times) * weights, rcond=None)
    return float(solved[0]), float(solved[1])


def line_summary(lines: Sequence[Line]) -> dict[str, Any]:
    """Sum up slope and intercept apart: mean of |error| and mean error, over all and by family."""
    families: dict[str, list[Line]] = {}
    for line in lines:
        families.setdefault(line.family, []).append(line)
    return {
        **_both(lines),
        "by_family": {name: _both(members) for name, members in sorted(families.items())},
    }


def _both(lines: Sequence[Line]) -> dict[str, Any]:
    slopes = [line.slope_error for line in lines]
    intercepts = [line.intercept_error for line in lines]
    return {
        "lines": len(lines),
        "slope": {"mape": _mean([abs(e) for e in slopes]), "bias": _mean(slopes)},
        "intercept": {"mape": _mean([abs(e) for e in intercepts]), "bias": _mean(intercepts)},
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
