"""GEMM constants from measured GEMMs: one dependence on the sizes, a level for every source.

Sources measure at different clocks: short bursts, or long enough to meet the power cap, with
operands in the L2 cache or not. Their levels are never pooled. What tiles, waves and the prologue
cost is the kernels', so sources of one architecture and format share it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from desim.calibrate.search import minimise
from desim.kernels.gemm import GemmUnit, best_kernel
from desim.spec.hardware import GemmShape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Column = NDArray[np.float64]

_FIRST_GUESS = 0.7  # efficiency with which kernels are chosen; the level found scales their math
_LEVEL_ROUNDS = 4  # of the fixed point between the level and which GEMMs are bound by memory
_BOOST_TIME_S = 1e-3  # a burst this long keeps half of the boost (power controllers: milliseconds)

#: constant -> (start, lowest, highest); starts are those of NVIDIA's guide and of CUTLASS
_BOXES = {
    "prologue_k": (256.0, 0.0, 1500.0),
    "wave_loss": (0.7, 0.0, 1.0),
    "half_rate_intensity": (32.0, 0.0, 200.0),
    "boost": (0.1, 0.0, 0.6),
    "cast_bytes": (3.0, 0.0, 40.0),
}
_PULL = 1e-3  # cost of a constant one box half away from its start: decides what rows do not show


@dataclass(frozen=True, eq=False)
class GemmRows:
    """GEMMs that one source measured on one device in one format.

    `sizes` has rows m, n, k and batch; `crossing_bytes` is what each moves at least;
    `accumulates` marks those that add to an fp32 output. `unit` gives SMs, tile, memory rate and,
    as `flops_per_s`, the dense peak. `overhead_s` is what the source adds to each, a launch
    included. `burst` says that short GEMMs ran above the sustained clock, `casts` that converting
    the first operand from 16 bits is part of the time.
    """

    name: str
    unit: GemmUnit
    sizes: NDArray[np.float64]
    crossing_bytes: Column
    seconds: Column
    accumulates: NDArray[np.bool_]
    overhead_s: float = 2e-6
    burst: bool = False
    casts: bool = False

    def choose(self, wanted: NDArray[np.bool_]) -> GemmRows:
        """Return the rows that `wanted` marks."""
        return GemmRows(
            self.name,
            self.unit,
            self.sizes[:, wanted],
            self.crossing_bytes[wanted],
            self.seconds[wanted],
            self.accumulates[wanted],
            self.overhead_s,
            self.burst,
            self.casts,
        )


@dataclass(frozen=True)
class Level:
    """Share of the peak at endless k, at the sustained clock, and that of accumulating GEMMs."""

    efficiency: float
    accumulate: float


@dataclass(frozen=True)
class GemmFit:
    """Constants of an architecture and format.

    `boost` is what a short burst gains over the sustained clock, `cast_bytes` what a conversion
    moves per element of the first operand (two kernels that read 16 bits and one that writes 8
    move at least 5), `levels` belong to the sources by name.
    """

    shape: GemmShape
    boost: float
    cast_bytes: float
    levels: dict[str, Level]

    def predict(self, rows: GemmRows) -> Column:
        """Return the time of each row in seconds; its source is one that the fit has seen."""
        level = self.levels[rows.name]
        math, memory = _parts(rows, self.shape)
        return _total(rows, math, memory, level, self.boost, self.cast_bytes)


def fit_gemm(sets: Sequence[GemmRows]) -> GemmFit:
    """Return the constants that fit sources of one architecture and format, each weighing alike.

    The cost is the mean over sources of the mean absolute logarithmic error plus three tenths of
    its root mean square, with a weak pull to the starts.
    """
    names = [
        *("prologue_k", "wave_loss", "half_rate_intensity"),
        *(["boost"] if any(rows.burst for rows in sets) else []),
        *(["cast_bytes"] if any(rows.casts for rows in sets) else []),
    ]
    start, lower, upper = (np.array(side) for side in zip(*(_BOXES[n] for n in names), strict=True))

    def cost(point: NDArray[np.float64]) -> float:
        fit = _with_levels(sets, dict(zip(names, map(float, point), strict=True)))
        errors = [np.log(fit.predict(rows) / rows.seconds) for rows in sets]
        spread = [np.mean(np.abs(e)) + 0.3 * np.sqrt(np.mean(e * e)) for e in errors]
        pull = _PULL * np.sum(((point - start) / (upper - lower) * 2) ** 2)
        return float(np.mean(spread) + pull)

    best, _ = minimise(cost, start, lower, upper)
    return _with_levels(sets, dict(zip(names, map(float, best), strict=True)))


def _with_levels(sets: Sequence[GemmRows], found: dict[str, float]) -> GemmFit:
    """Return the fit with these constants and, for each source, the level that has no bias."""
    shape = GemmShape(**{k: v for k, v in found.items() if k in GemmShape.model_fields})
    boost, cast = found.get("boost", 0.0), found.get("cast_bytes", 0.0)
    levels = {rows.name: _level(rows, shape, boost, cast) for rows in sets}
    return GemmFit(shape, boost, cast, levels)


def _level(rows: GemmRows, shape: GemmShape, boost: float, cast: float) -> Level:
    math, memory = _parts(rows, shape)
    level = Level(_FIRST_GUESS, 1.0)
    for _ in range(_LEVEL_ROUNDS):
        ratio = _total(rows, math, memory, level, boost, cast) / rows.seconds
        plain = float(np.median(ratio[~rows.accumulates]))
        adding = ratio[rows.accumulates]
        accumulate = level.accumulate * float(np.median(adding)) / plain if len(adding) else 1.0
        level = Level(level.efficiency * plain, accumulate)
    return level


def _parts(rows: GemmRows, shape: GemmShape) -> tuple[Column, Column]:
    """Return the math time at the whole peak, and the memory time, of each row's best kernel."""
    unit = GemmUnit(
        rows.unit.sms,
        rows.unit.flops_per_s * _FIRST_GUESS,
        rows.unit.memory_bytes_per_s,
        rows.unit.tile,
        shape,
    )
    math, extra = best_kernel(rows.sizes, rows.crossing_bytes[:, None], unit)
    return math * _FIRST_GUESS, (rows.crossing_bytes + extra) / unit.memory_bytes_per_s


def _total(
    rows: GemmRows, math: Column, memory: Column, level: Level, boost: float, cast: float
) -> Column:
    share = level.efficiency * np.where(rows.accumulates, level.accumulate, 1.0)
    seconds = math / share
    if rows.burst:
        seconds = seconds / (1 + boost / (1 + seconds / _BOOST_TIME_S))
    seconds = np.maximum(seconds, memory) + rows.overhead_s
    if rows.casts:
        m, _, k, batch = rows.sizes
        seconds = seconds + cast * batch * m * k / rows.unit.memory_bytes_per_s
    return seconds
