"""What changes from one run to another: seconds of the step, by where the time of GPUs went."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Difference:
    """How much longer a run's step takes than a reference's; `by_category` sums to it."""

    step_time_s: float
    by_category: dict[str, float]
    share: float
    """The same as a share of the reference's step."""


def category_seconds(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return the seconds of a step by category, mean over all GPUs: they sum to the step time."""
    step_time_s = float(summary["step_time_s"])
    return {category: share * step_time_s for category, share in summary["time_share"].items()}


def difference(reference: Mapping[str, Any], summary: Mapping[str, Any]) -> Difference:
    """Return what the step of `summary` takes longer than that of `reference`, and where."""
    before, after = category_seconds(reference), category_seconds(summary)
    reference_s = float(reference["step_time_s"])
    step_s = float(summary["step_time_s"]) - reference_s
    by_category = {
        category: after.get(category, 0.0) - before.get(category, 0.0)
        for category in dict.fromkeys((*before, *after))
    }
    return Difference(step_s, by_category, step_s / reference_s)
