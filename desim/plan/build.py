"""The plan: a scenario turned into programs, wiring and rank classes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from desim.kernels.model import kernel_model
from desim.kernels.software import stack
from desim.models.build import build_layers
from desim.models.shard import Shard
from desim.network.topology import build_topology
from desim.plan.connections import in_issue_order
from desim.plan.context import Context
from desim.plan.disturb import Disturbed, disturb
from desim.plan.dlrm_step import dlrm_programs
from desim.plan.documents import draws_of, packing_of, with_draws
from desim.plan.fold import Edges, Folding, fold
from desim.plan.kinds import kinds_of
from desim.plan.ledger import make_ledger
from desim.plan.mesh import build_mesh
from desim.plan.overlap import TENSOR
from desim.plan.pipeline_step import pipeline_programs, stage_chunks
from desim.plan.schedules import layout_of
from desim.plan.tables import Tables
from desim.plan.wiring import wire
from desim.record import PS_PER_S
from desim.spec.context import heads_inside
from desim.spec.documents import are_drawn
from desim.spec.loads import expert_loads

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from desim.kernels.time import KernelTime
    from desim.models.op import Layer
    from desim.plan.ledger import Ledger
    from desim.plan.mesh import Mesh
    from desim.plan.program import Program
    from desim.plan.wiring import Wiring
    from desim.spec.scenario import Scenario

_PROGRAMS = {"transformer": pipeline_programs, "dlrm": dlrm_programs}


@dataclass(frozen=True, slots=True)
class Plan:
    """All that the engine needs: what every rank does, with whom, over which links.

    Rank r plays `programs[program_of[r]]`, those of all stages for each kind of rank (all these for
    each draw of documents); kernel i of the tables takes `kernel_times[i]` alone.
    """

    context: Context
    programs: tuple[Program, ...]
    ledgers: tuple[Ledger, ...]
    program_of: NDArray[np.int64]
    kernel_times: tuple[KernelTime, ...]
    wiring: Wiring
    folding: Folding
    disturbed: Disturbed
    notes: tuple[str, ...]
    """What the user should know about how the scenario was read."""

    @property
    def stage_of(self) -> NDArray[np.int64]:
        """Pipeline stage of every rank."""
        return self.context.mesh.coordinate("pp")

    @property
    def scenario(self) -> Scenario:
        """The scenario that was planned."""
        return self.context.scenario


def reduced_at_once(scenario: Scenario) -> bool:
    """Whether FSDP reduces the gradients of every micro-batch, which no buffer gathers then."""
    return scenario.parallel.zero == 3 and scenario.policies.fsdp.reduce_every_micro_batch


def shard_of(scenario: Scenario) -> Shard:
    """The part of the model that one rank holds."""
    parallel, workload = scenario.parallel, scenario.workload
    sharded = parallel.embedding == "sharded"
    return Shard(
        tensor=parallel.tensor,
        sequence=parallel.sequence,
        context=parallel.context,
        data_ranks=scenario.cluster.devices if sharded else 1,
        micro_batch=workload.micro_batch,
        sequence_length=workload.sequence_length,
        precision=workload.precision,
        kernels=scenario.kernels,
        pipeline=1 if layout_of(scenario.policies).folded_back else parallel.pipeline,
        context_exchange=scenario.policies.context,
        chunked=TENSOR[scenario.policies.overlap.tensor].chunked,
        any_layout=scenario.cluster.system.device.any_layout,
        adapters=workload.adapters,
        expert=parallel.expert,
        expert_tensor=parallel.expert_tensor or parallel.tensor,
        main_gradients=not reduced_at_once(scenario),
        chunks=scenario.policies.overlap.tensor_chunks,
        chunk_exchange=scenario.policies.overlap.tensor_exchange,
        context_inside=heads_inside(scenario),
        busiest_load=max(expert_loads(scenario)),
        expert_chunks=scenario.policies.experts.chunks,
        shared_beside=scenario.policies.experts.shared == "beside",
        packing=packing_of(scenario),
    )


def layers_of(scenario: Scenario) -> tuple[Layer, ...]:
    """The model's layers as one rank sees them."""
    return build_layers(scenario.workload, shard_of(scenario))


def mesh_of(scenario: Scenario) -> Mesh:
    """The mesh of a scenario, with the levels of its context groups."""
    return replace(build_mesh(scenario.parallel), context_inside=heads_inside(scenario))


def make_context(scenario: Scenario, kept_repeats: int | None = None) -> Context:
    """Build layers, mesh and tables of a scenario."""
    software = stack(scenario.kernels)
    mesh = mesh_of(scenario)
    first, *others = kinds_of(scenario, mesh, shard_of(scenario)).shards
    return Context(
        scenario=scenario,
        layers=build_layers(scenario.workload, first),
        mesh=mesh,
        tables=Tables(),
        launch_ps=round(software.launch_s * PS_PER_S),
        group_launch_ps=round(software.group_launch_s * PS_PER_S),
        collective_launch_ps=round(software.collective_launch_s * PS_PER_S),
        graph_launch_ps=round(software.graph_launch_s * PS_PER_S) if software.graphs else None,
        kept_repeats=kept_repeats,
        others=tuple(build_layers(scenario.workload, shard) for shard in others),
    )


def build_programs(context: Context) -> tuple[tuple[Program, ...], tuple[Ledger, ...]]:
    """Build the distinct programs of a job and their memory ledgers.

    There is one per pipeline stage, for each kind of rank.
    """
    family = context.scenario.workload.model.family
    programs = tuple(_PROGRAMS[family](context))
    if context.scenario.policies.resources.max_connections == 1:
        programs = tuple(in_issue_order(program) for program in programs)
    held = held_layers(context)
    ledgers = [make_ledger(context, p, layers) for p, layers in zip(programs, held, strict=True)]
    return programs, tuple(ledgers)


def held_layers(context: Context) -> list[tuple[Layer, ...]]:
    """Layers that a rank of each stage holds, for each kind of rank."""
    if context.scenario.workload.model.family == "dlrm":
        return [context.layers]
    stages = [chunks for kind in context.kinds for chunks in stage_chunks(kind)]
    return [tuple(layer for chunk in chunks for _, layer in chunk) for chunks in stages]


def build_plan(scenario: Scenario, kept_repeats: int | None = None) -> Plan:
    """Turn a scenario into a plan.

    With `kept_repeats` the programs have about so many of the micro-batches that repeat, and leave
    out the others (`Program.left_out`) where that is much of a step.
    """
    context = make_context(scenario, None if are_drawn(scenario) else kept_repeats)
    programs, ledgers = build_programs(context)
    mesh = context.mesh
    kind = kinds_of(scenario, mesh, shard_of(scenario)).of_rank
    program_of = kind * mesh.sizes["pp"] + mesh.coordinate("pp")
    draws = draws_of(scenario, mesh.sizes["dp"], context.micro_batches)
    if draws is not None:
        program_of += len(programs) * draws.of_replica(mesh.coordinate("dp"))
        programs = with_draws(programs, context.tables, draws)
        ledgers = ledgers * len(draws.packings)
    topology = build_topology(context.system, scenario.cluster.devices)
    disturbed = disturb(scenario, topology)
    wiring = wire(
        mesh,
        disturbed.topology,
        context.tables,
        scenario,
        context.data_groups.neighbours,
    )
    kernels = kernel_model(scenario)
    kernel_times = tuple(kernels.time(op) for op in context.tables.ops)
    return Plan(
        context=context,
        programs=programs,
        ledgers=ledgers,
        program_of=program_of,
        kernel_times=kernel_times,
        wiring=wiring,
        folding=_fold(scenario, wiring, program_of, disturbed),
        disturbed=disturbed,
        notes=(*kernels.notes, *wiring.notes),
    )


def _fold(
    scenario: Scenario, wiring: Wiring, program_of: NDArray[np.int64], disturbed: Disturbed
) -> Folding:
    """Colour ranks, groups and links, starting from what is known to differ."""
    num_ranks = len(program_of)
    if scenario.run.fold is False or disturbed.jitter:
        ranks = np.arange(num_ranks, dtype=np.int64)
    else:
        _, factor = np.unique(disturbed.compute, return_inverse=True)
        ranks = program_of * (int(factor.max()) + 1) + factor
    slot, rank = np.nonzero(wiring.group_of >= 0)
    membership = Edges(rank, wiring.group_of[slot, rank], slot)
    return fold(ranks, _group_colours(wiring), _link_colours(wiring), membership, _loads(wiring))


def _group_colours(wiring: Wiring) -> NDArray[np.int64]:
    """Start colour of a group: its family, and the latencies and times per byte of its collectives.

    Light collectives have no edges to links that would tell groups apart.
    """
    colour = np.zeros(wiring.num_groups, dtype=np.int64)
    for number, (family, rows) in enumerate(wiring.members.items()):
        at = wiring.first[family]
        times = [
            part
            for use in wiring.uses
            if use.family == family
            for part in (use.latency_s, use.near_seconds_per_byte, use.far_seconds_per_byte)
        ]
        _, kind = np.unique(np.stack(times), axis=1, return_inverse=True)
        colour[at : at + len(rows)] = number + len(wiring.members) * kind
    return colour


def _link_colours(wiring: Wiring) -> NDArray[np.int64]:
    """Start colour of a link: its kind and capacity."""
    topology = wiring.topology
    _, capacity = np.unique(topology.capacity_bytes_per_s, return_inverse=True)
    return topology.kind.astype(np.int64) * (int(capacity.max(initial=0)) + 1) + capacity


def _loads(wiring: Wiring) -> Edges:
    """Edges between groups and links, labelled by profile and load."""
    groups, links, labels = [], [], []
    for number in wiring.loading:
        profile = wiring.profiles[number]
        groups.append(profile.group + wiring.first[wiring.profile_family[number]])
        links.append(profile.link)
        labels.append(np.round(profile.load, 12).view(np.int64) + number)
    none = np.zeros(0, np.int64)
    return Edges(
        np.concatenate([*groups, none]),
        np.concatenate([*links, none]),
        np.concatenate([*labels, none]),
    )
