"""One training step of a recommendation model: tables, all-to-all, MLPs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from desim.models.optimizer import optimizer_ops
from desim.plan.buckets import ReduceBuckets, make_buckets
from desim.plan.passes import Hooks, PassPolicy, backward_layer, forward_layer
from desim.plan.program import Program, ProgramBuilder
from desim.plan.tables import LANE
from desim.plan.weight_pass import WeightGradients

if TYPE_CHECKING:
    from desim.models.op import Comm
    from desim.plan.context import Context
    from desim.plan.stages import Chunk
    from desim.plan.template import Emitter, Mark, Template

#: Layers of the dense part in forward order, after the tables (layer 0).
_BOTTOM, _INTERACTION, _TOP = range(3)


def dlrm_programs(context: Context) -> list[Program]:
    """Build the program that every rank plays (Naumov et al. 2019, arXiv:1906.00091).

    The pooled vectors go all-to-all beside the bottom MLP; their gradients go back beside the
    bottom MLP's backward pass. Dense gradients are all-reduced in buckets.
    """
    tables, *dense = context.layers
    chunk: Chunk = tuple((i + 1, layer) for i, layer in enumerate(dense))
    scenario = context.scenario
    parameters = sum(layer.parameters for layer in dense)
    builder = ProgramBuilder()
    step = _step(context, chunk)
    emit = context.emitter()
    emit.phase = "optimizer"
    fused = scenario.kernels.fused_optimizer
    emit.kernels(optimizer_ops(parameters, 1, scenario.workload.precision, fused=fused))
    update = emit.finish()
    for _ in range(scenario.run.steps + 1):
        for micro_batch in range(context.micro_batches):
            builder.place(step, micro_batch)
        builder.wait([builder.now(LANE["dp"])])
        builder.place(update)
        if scenario.policies.sync != "none":
            builder.synchronize()
        builder.cut()
    del tables
    return [builder.build()]


def _step(context: Context, chunk: Chunk) -> Template:
    """Forward and backward of one micro-batch."""
    tables = context.layers[0].modules[0]
    beside = context.overlaps.tensor.beside
    policy = PassPolicy(beside)
    hooks = _hooks(context, chunk)
    weights = WeightGradients(chunk, hooks, overlap=beside)
    emit = context.emitter()
    emit.phase, emit.layer = "forward", 0
    emit.kernels(tables.forward)
    pooled = _exchange(emit, tables.post_forward, beside=beside)
    forward_layer(emit, chunk, _BOTTOM, policy, hooks)
    emit.wait(*pooled)
    forward_layer(emit, chunk, _INTERACTION, policy, hooks)
    forward_layer(emit, chunk, _TOP, policy, hooks)
    backward_layer(emit, chunk, _TOP, policy, hooks, weights)
    backward_layer(emit, chunk, _INTERACTION, policy, hooks, weights)
    emit.phase, emit.layer = "backward", 0
    gradients = _exchange(emit, tables.pre_backward, beside=beside)
    backward_layer(emit, chunk, _BOTTOM, policy, hooks, weights)
    emit.phase, emit.layer = "backward", 0
    emit.wait(*gradients)
    emit.kernels((*tables.dgrad, *tables.wgrad))
    return emit.finish()


def _exchange(emit: Emitter, comms: tuple[Comm, ...], *, beside: bool) -> list[Mark]:
    marks = [emit.collective(comm, beside=beside, lane="ep") for comm in comms]
    if not beside:
        emit.wait(*marks)
    return marks


def _hooks(context: Context, chunk: Chunk) -> list[Hooks]:
    groups = context.data_groups
    if groups.ranks == 1:
        return []
    wanted = context.bucket_parameters(whole_chunk=False)
    by_layer = context.overlaps.reduction.by_layer
    buckets = make_buckets(chunk, wanted, groups, pad=False, by_layer=by_layer)
    return [ReduceBuckets(buckets, groups, context.gradient_width, scatter=False, frees=False)]
