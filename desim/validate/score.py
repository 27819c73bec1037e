"""Errors of predictions, and what sums them up."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

WORST = 10


@dataclass(frozen=True, slots=True)
class Scored:
    """A row with what was measured and what desim says, in the same unit.

    `measured` is the median of the row's repeats.
    """

    id: str
    family: str
    measured: float
    simulated: float

    @property
    def error(self) -> float:
        """Signed relative error: simulated / measured - 1."""
        return self.simulated / self.measured - 1.0


def medians_of_repeats(values: Iterable[tuple[str, str, float]]) -> dict[str, float]:
    """Return for every row what it is compared with: its own value, or its repeats' median.

    `values` are (id, repeat_of, measured). Rows repeat one configuration when their `repeat_of` is
    the same text; a row whose id is that text is one of them.
    """
    given = list(values)
    tags = {tag for _, tag, _ in given if tag}
    tag_of = {name: tag or (name if name in tags else "") for name, tag, _ in given}
    repeats: dict[str, list[float]] = {}
    for name, _, value in given:
        if tag_of[name]:
            repeats.setdefault(tag_of[name], []).append(value)
    return {
        name: median(repeats[tag_of[name]]) if tag_of[name] else value for name, _, value in given
    }


def spread_of_repeats(values: Iterable[tuple[str, float]]) -> list[float]:
    """Return (largest - smallest) / median of each configuration measured more than once.

    `values` are (repeat_of, measured).
    """
    repeats: dict[str, list[float]] = {}
    for tag, value in values:
        if tag:
            repeats.setdefault(tag, []).append(value)
    found = [sorted(v) for v in repeats.values() if len(v) > 1]
    return [(v[-1] - v[0]) / median(v) for v in found]


def summary(rows: int, scored: Sequence[Scored]) -> dict[str, Any]:
    """Sum up the errors of `scored`, out of `rows` rows; all fractions, None where none is scored.

    `mape` is the mean of |error|, `median` and `p90` its quantiles (linear between ranks), `bias`
    the mean signed error, `family_mape` the mean over families of each one's mape, `worst` the rows
    of the largest |error|, first the largest.
    """
    sizes = np.array([abs(one.error) for one in scored])
    families: dict[str, list[float]] = {}
    for one in scored:
        families.setdefault(one.family, []).append(abs(one.error))
    means = [sum(errors) / len(errors) for errors in families.values()]
    some = len(sizes) > 0
    return {
        "rows": rows,
        "scored": len(scored),
        "mape": float(sizes.mean()) if some else None,
        "median": float(np.median(sizes)) if some else None,
        "p90": float(np.percentile(sizes, 90)) if some else None,
        "bias": sum(one.error for one in scored) / len(scored) if some else None,
        "family_mape": sum(means) / len(means) if some else None,
        "worst": worst(scored),
    }


def worst(scored: Iterable[Scored]) -> list[dict[str, Any]]:
    """Return id and signed error of the rows with the largest |error|, largest first."""
    ordered = sorted(scored, key=lambda one: (-abs(one.error), one.id))
    return [{"id": one.id, "error": one.error} for one in ordered[:WORST]]


def grouped(
    rows: Iterable[str], scored: Sequence[Scored], label: Callable[[str], str]
) -> dict[str, dict[str, Any]]:
    """Return a summary for each label of the rows' ids, in the order of the labels' names."""
    counts = Counter(label(name) for name in rows)
    members: dict[str, list[Scored]] = {name: [] for name in counts}
    for one in scored:
        members[label(one.id)].append(one)
    return {name: summary(counts[name], members[name]) for name in sorted(counts)}
