"""Small jobs that run in milliseconds, and ways to change their hardware and kernel times.

A scenario is a mapping as a user would write it; `job` fills in a tiny transformer on one or a few
DGX H100. What no scenario can say (kernels of an exact duration, a program built by hand) is put
into the plan.
"""

from __future__ import annotations

from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np

import desim
from desim.analyze.accounting import account
from desim.engine import simulate as simulating
from desim.engine.tracks import make_score
from desim.kernels.time import KernelTime
from desim.plan.build import Plan, build_plan
from desim.record import LANES, PS_PER_S, Record, Spans

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from desim.engine.play import Player
    from desim.models.op import Op
    from desim.spec.scenario import Scenario

PHASE = {name: index for index, name in enumerate(desim.record.PHASES)}
LANE = {name: index for index, name in enumerate(LANES)}

BASE: dict[str, Any] = {
    "name": "job",
    "workload": {
        "model": {
            "family": "transformer",
            "name": "tiny",
            "source": "test",
            "layers": 4,
            "hidden": 1024,
            "heads": 8,
            "kv_heads": 8,
            "head_dim": 128,
            "ffn": 4096,
            "gated": False,
            "vocab": 1024,
        },
        "sequence_length": 1024,
        "global_batch": 8,
        "micro_batch": 1,
    },
    "cluster": {"system": "dgx_h100_ndr400", "devices": 8},
}


def job(**changes: Any) -> Scenario:
    """Load the base job with `changes`: dotted paths with `__` for the dot."""
    mapping = deepcopy(BASE)
    for path, value in changes.items():
        *parents, last = path.split("__")
        where = mapping
        for name in parents:
            where = where.setdefault(name, {})
        where[last] = value
    # Closed forms of collectives are those of NCCL's model, without the measured costs.
    return with_system(desim.load(mapping), node_collectives=None)


def with_system(
    scenario: Scenario,
    *,
    device: Mapping[str, Any] | None = None,
    kernels: Mapping[str, Any] | None = None,
    communication: Mapping[str, Any] | None = None,
    fabric: Mapping[str, Any] | None = None,
    **system: Any,
) -> Scenario:
    """The scenario on changed hardware; values are in SI, by the names that desim uses inside."""
    old = scenario.cluster.system
    parts = {
        "kernels": old.device.kernels.model_copy(update=dict(kernels or {})),
        "communication": old.device.communication.model_copy(update=dict(communication or {})),
    }
    new = old.model_copy(
        update={
            "device": old.device.model_copy(update={**parts, **(device or {})}),
            "fabric": old.fabric.model_copy(update=dict(fabric or {})),
            **system,
        }
    )
    return scenario.model_copy(
        update={"cluster": scenario.cluster.model_copy(update={"system": new})}
    )


def instant(scenario: Scenario) -> Scenario:
    """The scenario with communication that takes no time to speak of and takes no SMs."""
    return with_system(
        scenario,
        device={"nvlink_bytes_per_s": 1e24},
        communication={
            "nvlink_sms": 0,
            "network_sms": 0,
            "message_sms": 0,
            "nvls_sms": 0,
            "beside_compute": 1.0,
        },
        kernels={"floor_s": 0.0},
        fabric={"nic_bytes_per_s": 1e24, "latency_s": 0.0, "hop_latency_s": 0.0},
        nvlink_latency_s=0.0,
    )


@dataclass(frozen=True)
class Played:
    """A plan, the player that played it, and its record."""

    plan: Plan
    player: Player
    record: Record

    @property
    def step_ps(self) -> int:
        return self.record.step_time_ps

    def spans(self, number: int = 0) -> Spans:
        return self.record.spans_of(number)

    def rows(self, number: int = 0, name: str = "", lane: str = "") -> list[int]:
        """Spans of one class with this name and lane, in issue order."""
        spans = self.spans(number)
        kept = np.ones(len(spans), dtype=bool)
        if name:
            kept &= spans.name == self.record.names.index(name)
        if lane:
            kept &= spans.lane == LANE[lane]
        return [int(i) for i in np.flatnonzero(kept)]

    def accounts(self) -> list[dict[str, int]]:
        """Where the time of every class went, in picoseconds."""
        across = self.record.details["groups_across_stages"]
        return [
            account(self.spans(number), rank_class.window_ps, across)
            for number, rank_class in enumerate(self.record.classes)
        ]


def play(
    scenario: Scenario,
    times: Callable[[Op], float | KernelTime] | None = None,
    *,
    host: float = 1.0,
) -> Played:
    """Plan and simulate.

    `times` replaces what every kernel takes alone, `host` multiplies the host's launch times.
    """
    plan = build_plan(scenario)
    if times is not None:
        plan = replace(plan, kernel_times=tuple(_time(times(op)) for op in plan.context.tables.ops))
    if host != 1.0:
        programs = [
            replace(p, host_ps=np.rint(p.host_ps * host).astype(np.int64)) for p in plan.programs
        ]
        plan = replace(plan, programs=tuple(programs))
    return play_plan(plan)


def play_plan(plan: Plan) -> Played:
    """Simulate a plan."""
    players: list[Player] = []
    record = simulating.simulate(plan, players.append)
    return Played(plan, players[0], record)


@contextmanager
def kernels_apart() -> Iterator[None]:
    """Play every kernel as a segment of its own while the block runs."""
    with patch.object(simulating, "make_score", partial(make_score, whole=False)):
        yield


@contextmanager
def passes_one_by_one() -> Iterator[None]:
    """Play every pass as it comes, none as a macro-task, while the block runs."""
    with patch.object(simulating, "find_stretches", lambda _: {}):
        yield


def same_bits(one: Played, other: Played) -> bool:
    """Whether two records have the same spans to the last bit, of every class."""
    if one.step_ps != other.step_ps or len(one.record.classes) != len(other.record.classes):
        return False
    columns = [field.name for field in fields(Spans)]
    return all(
        np.array_equal(getattr(one.spans(number), name), getattr(other.spans(number), name))
        for number in range(len(one.record.classes))
        for name in columns
    )


def _time(value: float | KernelTime) -> KernelTime:
    return value if isinstance(value, KernelTime) else KernelTime(value, 0.0, 0.0)


def seconds(value_ps: int) -> float:
    return value_ps / PS_PER_S
