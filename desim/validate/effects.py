"""Effects of policies: measured and simulated, and how far they agree."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from desim.validate.measurements import Measurement, measured_peak_bytes, measured_step_s
from desim.validate.memory_score import printed

if TYPE_CHECKING:
    from desim.api import Prediction
    from desim.validate.pairs import Pair


@dataclass(frozen=True, slots=True)
class Effect:
    """What a policy changed in a pair; fractions.

    `measured` and `simulated` are the ratio of GPU-seconds per token less one, `noise` what equal
    measurements of the source differ by. The memory effects are the ratio of peaks less one, None
    where no peak was printed.
    """

    pair: Pair
    measured: float
    simulated: float
    noise: float
    measured_memory: float | None = None
    simulated_memory: float | None = None

    @property
    def difference(self) -> float:
        """Simulated less measured effect; 0.01 is one point."""
        return self.simulated - self.measured

    @property
    def tells(self) -> bool:
        """Whether the measured effect exceeds the noise, so that its direction is known."""
        return abs(self.measured) > self.noise

    @property
    def agrees(self) -> bool:
        """Whether both effects have the same sign."""
        return self.measured * self.simulated > 0


def effect_of(pair: Pair, noise: float, predictions: Mapping[str, Prediction]) -> Effect | None:
    """Return the effect of a pair, None where a side could not be simulated."""
    sides = (pair.reference, pair.changed)
    if any(row.id not in predictions for side in sides for row in side):
        return None

    def simulated_s(row: Measurement) -> float | None:
        return predictions[row.id].step_time_s

    def simulated_bytes(row: Measurement) -> float | None:
        return printed(row.family).ours(predictions[row.id])

    measured = _ratio(sides, measured_step_s, _share_of_token)
    simulated = _ratio(sides, simulated_s, _share_of_token)
    if measured is None or simulated is None:
        return None
    peak = _ratio(sides, measured_peak_bytes, _one)
    own_peak = None if peak is None else _ratio(sides, simulated_bytes, _one)
    return Effect(pair, measured, simulated, noise, peak, own_peak)


def _ratio(
    sides: Sequence[Sequence[Measurement]],
    value: Callable[[Measurement], float | None],
    scale: Callable[[Measurement], float],
) -> float | None:
    """Changed over reference less one, each side the median of its rows; None without a value."""
    found = []
    for side in sides:
        values = [value(row) for row in side]
        known = [one * scale(row) for one, row in zip(values, side, strict=True) if one is not None]
        if not known:
            return None
        found.append(median(known))
    return found[1] / found[0] - 1.0


def _share_of_token(row: Measurement) -> float:
    """What turns seconds of a step into GPU-seconds of a token."""
    parts = [row.number(column) for column in ("num_gpus", "global_batch", "seq_len")]
    devices, batch, tokens = (part or math.nan for part in parts)
    return devices / (batch * tokens)


def _one(row: Measurement) -> float:
    return 1.0


def summary(effects: Sequence[Effect]) -> dict[str, Any]:
    """Sum up effects; fractions (0.01 is a point), None where there is none.

    `difference` has `median` and `p90` of the absolute differences and their signed mean `bias`;
    `direction` is the share of the pairs that tell a direction (`telling`) in which it is right.
    """
    sizes = np.array([abs(one.difference) for one in effects])
    telling = [one for one in effects if one.tells]
    memory = [
        abs(one.simulated_memory - one.measured_memory)
        for one in effects
        if one.measured_memory is not None and one.simulated_memory is not None
    ]
    some = len(sizes) > 0
    right = sum(one.agrees for one in telling)
    return {
        "pairs": len(effects),
        "telling": len(telling),
        "right": right,
        "direction": right / len(telling) if telling else None,
        "difference": {
            "median": float(np.median(sizes)) if some else None,
            "p90": float(np.percentile(sizes, 90)) if some else None,
            "bias": sum(one.difference for one in effects) / len(effects) if some else None,
        },
        "memory": {"pairs": len(memory), "median": median(memory) if memory else None},
    }


def grouped(effects: Iterable[Effect], label: Callable[[Effect], str]) -> dict[str, list[Effect]]:
    """Return effects by a label, labels in the order in which they come."""
    groups: dict[str, list[Effect]] = {}
    for one in effects:
        groups.setdefault(label(one), []).append(one)
    return groups


def report(effects: Sequence[Effect], unscored: Sequence[str]) -> dict[str, Any]:
    """Return what `--json` writes: summaries over all, by family, policy and path, and each pair.

    `all` leaves out sources that stand beside the list of effects to reproduce; `with_beside` and
    the other groups have them.
    """
    listed = [one for one in effects if not one.pair.policy.beside]
    by = {
        "by_family": grouped(effects, lambda one: one.pair.policy.family),
        "by_policy": grouped(effects, policy_key),
        "by_path": grouped(effects, lambda one: one.pair.policy.path),
    }
    return {
        "all": summary(listed),
        "with_beside": summary(effects),
        **{what: {key: summary(m) for key, m in groups.items()} for what, groups in by.items()},
        "families_by_path": {
            path: sorted({one.pair.policy.family for one in members})
            for path, members in by["by_path"].items()
        },
        "pairs": [_told(one) for one in effects],
        "not_simulated": list(unscored),
    }


def policy_key(one: Effect) -> str:
    """Return family and name of an effect's policy."""
    return f"{one.pair.policy.family}/{one.pair.policy.name}"


def _told(one: Effect) -> dict[str, Any]:
    return {
        "policy": policy_key(one),
        "path": one.pair.policy.path,
        "reference": [row.id for row in one.pair.reference],
        "changed": [row.id for row in one.pair.changed],
        "measured": one.measured,
        "simulated": one.simulated,
        "tells": one.tells,
        "agrees": one.agrees,
        "measured_memory": one.measured_memory,
        "simulated_memory": one.simulated_memory,
    }
