"""The order of passes on every stage, and how many steps pass before they repeat."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from desim.kernels.model import kernel_model
from desim.network.topology import build_topology
from desim.plan.schedules import AUTOMATIC, SCHEDULES, layout_of
from desim.plan.schedules.automatic import automatic
from desim.plan.schedules.costs import Costs, play_orders
from desim.plan.schedules.custom import custom_orders
from desim.plan.schedules.joined import join_passes
from desim.plan.step_ends import clean_cut
from desim.plan.tables import COMPUTE, SLOT, CommOp
from desim.plan.wiring import wire
from desim.record import LANES, PS_PER_S
from desim.spec.joined import joins_passes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from desim.plan.context import Context
    from desim.plan.schedules.passes import Kind, Pass
    from desim.plan.template import Template

    Chunks = list[dict[Kind, Template]]

#: A scenario is planned again where it is played with more of its micro-batches (`repeat.py`).
_automatic = lru_cache(maxsize=1)(automatic)
#: Steps after which a pipeline counts as settled are counted where they differ by less than this.
_STEADY = 1e-6


def make_orders(
    context: Context, stages: list[Chunks], message_bytes: float
) -> tuple[list[list[Pass]], int]:
    """Return the order of each stage, and the steps to play before the measured ones.

    `stages` has the passes of every stage's chunks where the schedule splits them. A step's news
    spread by one stage a step; where the costs of passes are known, as many are played as the
    orders need until every stage takes as long for a step as the others.
    """
    policies, count = context.scenario.policies, context.scenario.parallel.pipeline
    name, joined = policies.schedule, clean_cut(context)
    if not layout_of(policies).split:
        return _fixed(context), count
    costs = _costs(context, stages, message_bytes)
    if name in AUTOMATIC:
        limit = AUTOMATIC[name] or policies.schedule_memory
        orders = _automatic(costs, context.micro_batches, limit, joined=joined)
    else:
        orders = _fixed(context)
    return orders, 1 if joined else _settling_steps(orders, costs)


def _fixed(context: Context) -> list[list[Pass]]:
    """Orders that do not depend on what passes cost."""
    policies, parallel = context.scenario.policies, context.scenario.parallel
    if policies.schedule == "custom":
        assert policies.custom is not None, "a rule refuses it"
        return custom_orders(policies.custom)
    order, chunks = SCHEDULES[policies.schedule], parallel.virtual_stages
    stages, count = range(parallel.pipeline), context.micro_batches
    orders = [order(stage, parallel.pipeline, count, chunks) for stage in stages]
    if joins_passes(context.scenario) and not layout_of(policies).split:
        return [join_passes(order) for order in orders]
    return orders


def _settling_steps(orders: list[list[Pass]], costs: Costs) -> int:
    """Steps until each stage's step is as long as the others', one per stage at most."""
    free = [0.0] * costs.stages
    for steps in range(1, costs.stages + 1):
        ended = play_orders(orders, costs, free).end_s
        lengths = np.subtract(ended, free)
        if np.ptp(lengths) <= _STEADY * lengths.max():
            return steps
        free = list(ended)
    return costs.stages


def _costs(context: Context, stages: list[Chunks], message_bytes: float) -> Costs:
    """Add up what passes take alone: kernels, and collectives that nothing runs beside."""
    tables, scenario = context.tables, context.scenario
    layout = layout_of(scenario.policies)
    beside = context.overlaps.pipeline.posted
    op = CommOp(SLOT["send_forward"], "send_recv", round(message_bytes), beside)
    message = tables.comm(op)
    kernels = kernel_model(scenario)
    kernel_s = np.array([kernels.time(op).alone_s for op in tables.ops])
    comm_s = _comm_seconds(context)
    exposed_s = np.array(
        [0.0 if c.beside else s for c, s in zip(tables.comms, comm_s, strict=True)]
    )
    known = {
        id(template): _seconds(template, kernel_s, exposed_s)
        for chunks in stages
        for chunk in chunks
        for template in chunk.values()
    }

    def table(kind: Kind) -> tuple[tuple[float, ...], ...]:
        return tuple(tuple(known[id(chunk[kind])] for chunk in chunks) for chunks in stages)

    def joined(chunks: list[dict[Kind, Template]]) -> tuple[float, ...]:
        """By how much each backward pass makes the forward pass longer that it is joined with."""
        pairs = zip(chunks, reversed(chunks), strict=True)
        return tuple(
            _joined_seconds(one["joined"], kernel_s, comm_s) - known[id(other["forward"])]
            for one, other in pairs
        )

    return Costs(
        forward_s=table("forward"),
        backward_s=table("backward"),
        weight_s=table("weight"),
        kept=tuple(tuple(_kept(chunk) for chunk in chunks) for chunks in stages),
        message_s=comm_s[message],
        folded_back=layout.folded_back,
        mirrored=layout.mirrored,
        joined_s=tuple(map(joined, stages)) if joins_passes(scenario) else (),
    )


def _seconds(
    template: Template, kernel_s: NDArray[np.float64], exposed_s: NDArray[np.float64]
) -> float:
    """Time of a pass: what its device does, or what its host takes to launch it if that is more."""
    kernels = template.op[template.lane == COMPUTE]
    comms = template.comm[template.comm >= 0]
    device_s = float(kernel_s[kernels].sum() + exposed_s[comms].sum())
    return max(device_s, float(template.host_ps.sum()) / PS_PER_S)


def _joined_seconds(
    template: Template, kernel_s: NDArray[np.float64], comm_s: list[float]
) -> float:
    """Time of two passes as one: every task once its lane and what it waits for are done."""
    ends_s: list[list[float]] = [[0.0] for _ in LANES]
    waits: dict[int, list[tuple[int, int]]] = {}
    for task, lane, count in template.waits.tolist():
        waits.setdefault(task, []).append((lane, count))
    columns = zip(template.lane.tolist(), template.op.tolist(), template.comm.tolist(), strict=True)
    for task, (lane, op, comm) in enumerate(columns):
        starts_s = max(ends_s[on][count] for on, count in ((lane, -1), *waits.get(task, ())))
        ends_s[lane].append(starts_s + (comm_s[comm] if comm >= 0 else float(kernel_s[op])))
    device_s = max(ends[-1] for ends in ends_s)
    return max(device_s, float(template.host_ps.sum()) / PS_PER_S)


def _kept(chunk: dict[Kind, Template]) -> float:
    """Memory that weight gradients wait with, over what the forward pass leaves."""
    held = float(chunk["forward"].memory_bytes.sum())
    kept = -float(chunk["weight"].memory_bytes.sum())
    return kept / held if held > 0 else 1.0


def _comm_seconds(context: Context) -> list[float]:
    """Time alone of every collective of the tables, on the slowest of its groups."""
    scenario, tables = context.scenario, context.tables
    topology = build_topology(context.system, scenario.cluster.devices)
    shard = context.data_groups.neighbours
    wiring = wire(context.mesh, topology, tables, scenario, shard)
    seconds = []
    for comm, use in zip(tables.comms, wiring.uses, strict=True):
        taken_s = use.latency_s + comm.size_bytes * use.seconds_per_byte
        seconds.append(float(taken_s.max(initial=0.0)))
    return seconds
