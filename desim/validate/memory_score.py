"""Scores of peak memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from desim.validate.measurements import ALLOCATED_GIB, RESERVED_GIB, measured_peak_bytes
from desim.validate.score import Scored, grouped, summary

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from desim.api import Prediction
    from desim.validate.measurements import Measurement
    from desim.validate.play import Played

_GIB = 2.0**30
_OWN = "mem_is_own_run"


def _allocated(prediction: Prediction) -> float | None:
    return prediction.allocated_bytes


def _reserved(prediction: Prediction) -> float | None:
    return prediction.reserved_bytes


def _on_device(prediction: Prediction) -> float | None:
    return prediction.device_bytes


@dataclass(frozen=True, slots=True)
class Printed:
    """What a source prints as its peak: the number of desim's, and how large its unit is.

    `unit` is bytes of the source's own unit over bytes of the one that the row names.
    """

    ours: Callable[[Prediction], float | None] = _allocated
    unit: float = 1.0


#: What families of `step_time.csv` print as their peak; what is allocated where none is said.
#: torchtitan's metrics: `max_reserved`. BigScience (chronicles-prequel.md): what `nvidia-smi`
#: shows, read off in thousands of MiB ("80GB" on a device that has 81,251 MiB).
_PRINTED = {
    "torchtitan": Printed(_reserved),
    "bigscience": Printed(_on_device, unit=2.0**20 / 1e6),
}


def printed(family: str) -> Printed:
    """Return what a family of step times prints as its peak of memory."""
    return _PRINTED.get(family, Printed())


#: Key of the report -> column of the file, and what desim says.
_COMPARED: dict[str, tuple[str, Callable[[Prediction], float | None]]] = {
    "allocated": (ALLOCATED_GIB, _allocated),
    "reserved": (RESERVED_GIB, _reserved),
}


def score(
    rows: Sequence[Measurement], played: Sequence[Played]
) -> tuple[dict[str, Any], dict[str, tuple[float, float]]]:
    """Score peaks of memory; `own_runs` are rows measured in a run of their own.

    Returns the report, and by id what was compared: measured and simulated peak of allocated bytes.
    """
    report: dict[str, Any] = {}
    compared: dict[str, tuple[float, float]] = {}
    unscored: list[dict[str, str]] = []
    for key, (column, simulated) in _COMPARED.items():
        given, scored = [], []
        for one in played:
            try:
                measured = one.row.number(column)
            except ValueError as error:
                unscored.append(_unscored(one, f"{key}: {error}"))
                continue
            if measured is None:
                continue
            given.append(one)
            prediction = one.outcome.prediction
            ours = simulated(prediction) if prediction is not None else None
            if ours is None:
                reason = one.outcome.reason or "not told from allocated memory"
                unscored.append(_unscored(one, f"{key}: {reason}"))
                continue
            scored.append(Scored(one.row.id, one.row.family, measured * _GIB, ours))
        if key == "allocated":
            compared = {one.id: (one.measured, one.simulated) for one in scored}
        own = [one.row.id for one in given if one.row.cells.get(_OWN, "").strip() == "yes"]
        report[key] = summary(len(given), scored)
        report[key]["own_runs"] = summary(len(own), [one for one in scored if one.id in own])
    report["unscored"] = unscored
    return report, compared


def _unscored(one: Played, reason: str) -> dict[str, str]:
    return {"id": one.row.id, "tier": one.row.tier, "reason": reason}


def beside_step_times(played: Sequence[Played]) -> dict[str, Any]:
    """Score the peaks that rows of step times also give, apart from the files of memory.

    Compared is what the source prints: what is allocated, reserved, or taken of the device.
    """
    given: list[str] = []
    scored: list[Scored] = []
    for one in played:
        try:
            measured = measured_peak_bytes(one.row)
        except ValueError:
            measured = None
        if measured is None:
            continue
        given.append(one.row.id)
        prediction = one.outcome.prediction
        told = printed(one.row.family)
        ours = told.ours(prediction) if prediction is not None else None
        if ours is not None:
            scored.append(Scored(one.row.id, one.row.family, measured * told.unit, ours))
    family = {one.row.id: one.row.family for one in played}
    return summary(len(given), scored) | {"by_family": grouped(given, scored, family.__getitem__)}
