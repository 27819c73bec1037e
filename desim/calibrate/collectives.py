"""Constants of NCCL inside a node, fitted on measured collectives (nccl-tests and the like).

    python -m desim calibrate collectives validation/collectives.csv --gpu h100_sxm \
        --system dgx_h100_ndr400

A collective takes the least over algorithms and protocols of base + steps x step + bytes x seconds
per byte. Steps, loads and the closing block come from `desim.network`, so that what is fitted is
what is simulated; the fit finds base, step, share of the bandwidth and closing step.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from desim.calibrate.lines import Line, fit_least_of_lines
from desim.network.profile import collective_profile
from desim.network.topology import build_topology
from desim.spec.hardware import NodeCollectives, ProtocolCosts

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from desim.spec.hardware import System

#: Sizes between which the fit begins with another protocol, and the closing steps that it tries.
_SIZES = (3e4, 3e5, 1.2e6, 2.5e6, 6e6, 1.2e7, 3e7)
_CLOSING = np.arange(0.0, 1.55, 0.1)
#: One ring step with the Simple protocol: table hwLat in NCCL's src/graph/tuning.cc. Groups of one
#: node are too small to tell it from the base, and rings over many nodes would multiply the error.
SIMPLE_STEP_S = 3.4e-6


#: Mean error, closing step, and weights (base, step, inverse share of the bandwidth) per line.
_Found = tuple[float, float, "list[NDArray[np.float64]]"]


@dataclass(frozen=True, slots=True)
class Measured:
    """One measured collective on the first `ranks` devices of a node; sizes as in `Profile`."""

    collective: str
    ranks: int
    size_bytes: float
    seconds: float


@dataclass(frozen=True, slots=True)
class NodeFit:
    """What was fitted: fields of a system, and the mean relative error over the rows."""

    nvlink_latency_s: float
    nvlink_efficiency: float
    nvls_efficiency: float | None
    node_collectives: NodeCollectives
    error: float


@dataclass(frozen=True, slots=True)
class _Rows:
    """What the network model says of each row on links of full efficiency."""

    steps: NDArray[np.float64]
    wire_s: NDArray[np.float64]
    """Size over bandwidth of the busiest link."""
    block_s: NDArray[np.float64]
    """The same of one block of 1/n of the size."""
    size_bytes: NDArray[np.float64]
    seconds: NDArray[np.float64]

    def features(self, closing: float) -> NDArray[np.float64]:
        """Features of base, step and the inverse of the share of the bandwidth."""
        ones = np.ones(len(self.steps))
        return np.stack([ones, self.steps, self.wire_s + closing * self.block_s], axis=1)


def fit_node(system: System, rows: Iterable[Measured], source: str) -> NodeFit:
    """Fit the collectives of one node; `system` says how its devices are joined.

    Without all-to-alls among the rows, messages are taken to cost what rings do.
    """
    plain = _ideal(system)
    table = list(rows)
    rings = [row for row in table if row.collective != "all_to_all"]
    messages = [row for row in table if row.collective == "all_to_all"]
    error, closing, (ll, ll128, simple, *nvls) = _fit_rings(plain, rings)
    message_error, message_closing, (small, large) = (
        _fit_messages(plain, messages) if messages else (0.0, closing, [ll, simple])
    )
    simple_costs = _costs(simple)
    large_costs = {**_costs(large).model_dump(by_alias=True), "closing_step": message_closing}
    fitted = NodeCollectives.model_validate(
        {
            "source": source,
            "simple_base": f"{simple[0] * 1e6:.2f} us",
            "closing_step": closing,
            "ll": _costs(ll),
            "ll128": _costs(ll128),
            "messages_ll": _costs(small),
            "messages": large_costs,
            "nvls_base": f"{nvls[0][0] * 1e6:.2f} us" if nvls else None,
        }
    )
    count = len(rings), len(messages)
    return NodeFit(
        nvlink_latency_s=simple_costs.step_s,
        nvlink_efficiency=simple_costs.efficiency,
        nvls_efficiency=float(f"{1 / nvls[0][1]:.3g}") if nvls else None,
        node_collectives=fitted,
        error=float(np.average([error, message_error], weights=count)),
    )


def _ideal(system: System) -> System:
    """The system with links of full efficiency and nothing measured."""
    changes = {"nvlink_efficiency": 1.0, "nvls_efficiency": 1.0, "node_collectives": None}
    return system.model_copy(update={**changes, "nvlink_latency_s": 1.0})


def _rows(system: System, rows: Sequence[Measured], algorithm: str) -> _Rows:
    topology = build_topology(system, system.devices_per_node)
    profiles = {}
    for row in rows:
        key = (row.collective, row.ranks)
        if key not in profiles:
            members = np.arange(row.ranks).reshape(1, -1)
            profiles[key] = collective_profile(topology, members, row.collective, algorithm)
    found = [profiles[row.collective, row.ranks] for row in rows]
    size_bytes = np.array([row.size_bytes for row in rows])
    ranks = np.array([row.ranks for row in rows])
    rounds = np.array([2 if row.collective == "all_reduce" else 1 for row in rows])
    wire_s = size_bytes * np.array([p.seconds_per_byte[0] for p in found])
    return _Rows(
        steps=np.array([p.near_s[0] for p in found]),
        wire_s=wire_s,
        block_s=wire_s / (rounds * (ranks - 1)),
        size_bytes=size_bytes,
        seconds=np.array([row.seconds for row in rows]),
    )


def _fit_rings(system: System, rows: Sequence[Measured]) -> _Found:
    """LL, LL128 and Simple rings, and in-switch all-reduce where the system has it."""
    ring = _rows(system, rows, "ring")
    reduces = np.array([row.collective == "all_reduce" for row in rows])
    extra = []
    if system.nvls:
        reduced = [row for row in rows if row.collective == "all_reduce"]
        features = np.zeros((len(rows), 2))
        wire_s = _rows(system, reduced, "nvls").wire_s
        features[reduces] = np.stack([np.ones(len(reduced)), wire_s], axis=1)
        both = np.ones(2, np.bool_)
        extra = [Line(features, reduces, np.array([0.0, 1.0]), both)]
    ranks = np.array([row.ranks for row in rows])
    in_switch = reduces & (ranks == ranks.max()) & (ring.size_bytes > _SIZES[-1])
    starts = []
    for low, high in combinations(_SIZES, 2):
        line = np.digitize(ring.size_bytes, [low, high])
        starts.append(np.where(in_switch, 3, line) if extra else line)
    free = np.array([True, True, True])
    kinds = [(0.0, free), (0.0, free), (SIMPLE_STEP_S, np.array([True, False, True]))]
    return _best(ring, starts, kinds, extra)


def _fit_messages(system: System, rows: Sequence[Measured]) -> _Found:
    """LL and Simple messages, which go side by side: one base, no steps."""
    table = _rows(system, rows, "pairwise")
    starts = [np.digitize(table.size_bytes, [size]) for size in _SIZES]
    return _best(table, starts, [(0.0, np.array([True, False, True]))] * 2, [])


def _best(
    table: _Rows,
    starts: list[NDArray[np.int64]],
    kinds: list[tuple[float, NDArray[np.bool_]]],
    extra: list[Line],
) -> _Found:
    """The fit of least error over all starts and closing steps; `kinds` has (step, free) each."""
    every = np.ones(len(table.steps), np.bool_)
    found: _Found | None = None
    for closing in _CLOSING:
        features = table.features(closing)
        # No share of the bandwidth is above 1.
        lines = [Line(features, every, np.array([0, step, 1.0]), free) for step, free in kinds]
        for first in starts:
            fit = fit_least_of_lines(lines + extra, table.seconds, first)
            if fit is None or (found is not None and fit[0] >= found[0]):
                continue
            # Protocols for larger sizes reach more bandwidth: weight 2 is its inverse.
            inverse = [weights[2] for weights in fit[1][: len(kinds)]]
            if sorted(inverse, reverse=True) == inverse:
                found = (fit[0], round(float(closing), 2), fit[1])
    assert found is not None, "too few rows for as many lines"
    return found


def _costs(weights: NDArray[np.float64]) -> ProtocolCosts:
    """Costs as a system file states them: to a hundredth of a microsecond and three digits."""
    base_s, step_s, inverse = weights
    return ProtocolCosts.model_validate(
        {
            "base": f"{base_s * 1e6:.2f} us",
            "step": f"{step_s * 1e6:.2f} us",
            "efficiency": float(f"{1 / inverse:.3g}"),
        }
    )
