"""Tensor-parallel collectives cut into chunks that travel while the GEMM works on others.

Transformer Engine's user buffers (`ub_overlap_ag`, `ub_overlap_rs`, ring exchange) and PyTorch's
asynchronous tensor parallelism (`_fused_all_gather_matmul`, `_fused_matmul_reduce_scatter`): copy
engines move the chunks between the members, so that no SM is lost. In the column-parallel backward
pass the whole collectives run beside the other GEMM (`ub_bulk_dgrad`, `ub_bulk_wgrad`), as without
chunks. An operand that is converted to low precision only once it is gathered keeps its gather
whole (torchao's scales by row: pytorch/pytorch issue 149990, "all-gather-matmuls not fusing").

A GEMM is cut in n parts (n = t, the tensor ranks, in both libraries) with n - 1 copies of what a
rank sends: g + (n - 1) max(g, p) for parts of g and copies of p, which for many parts tends to the
longer of the whole GEMM and the whole transfer.

The GEMMs of the chunks go to several streams in turn (Transformer Engine, comm_gemm_overlap.cpp:
three, `NVTE_COMM_OVERLAP_MAX_STREAMS`, of which a reduce-scatter lets two run at a time; PyTorch's
symmetric memory: two): the first tiles of one run on the SMs that the last wave of the one before
it leaves idle.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from desim.models.elementwise import elementwise_op
from desim.models.live import backward_live_bytes, forward_live_bytes
from desim.models.op import Comm, Layer, Module, Op, Step

if TYPE_CHECKING:
    from desim.models.shard import Shard


def chunk_layer(layer: Layer, shard: Shard) -> Layer:
    """Cut the all-gather before and the reduce-scatter after each GEMM of a block with it.

    Without sequence parallelism there is neither, and the layer is returned as it is.
    """
    if not shard.sequence_parallel:
        return layer
    return replace(layer, modules=tuple(_chunk_module(m, shard) for m in layer.modules))


def _chunk_module(module: Module, shard: Shard) -> Module:
    forward_steps, dgrad_steps = module.forward_steps, module.dgrad_steps
    gather, pre_forward = _taken(module.forward, module.pre_forward, "all_gather", shard)
    reduce, post_forward = _taken(module.forward, module.post_forward, "reduce_scatter", shard)
    back, pre_backward = _taken(module.dgrad, module.pre_backward, "all_gather", shard)
    replay, replay_steps = module.replay, module.replay_steps
    if gather:
        forward_steps = _gathered(module.forward, gather, shard)
        if replay and sum(_is_gemm(op) for op in replay) == 1:
            replay_steps = _gathered(replay, gather, shard)
    elif reduce:
        forward_steps = _SCATTERS[shard.chunk_exchange](module.forward, reduce, shard)
        replay = module.forward if replay is None else replay
    if back:
        dgrad_steps = _gathered(module.dgrad, back, shard)
    return replace(
        module,
        forward=_flat(forward_steps) or module.forward,
        dgrad=_flat(dgrad_steps) or module.dgrad,
        forward_steps=forward_steps,
        dgrad_steps=dgrad_steps,
        replay=replay,
        replay_steps=replay_steps,
        pre_forward=pre_forward,
        post_forward=module.post_forward if gather else post_forward,
        pre_backward=pre_backward,
        forward_bytes=forward_live_bytes(module),
        backward_bytes=backward_live_bytes(module),
    )


def _taken(
    ops: tuple[Op, ...], comms: tuple[Comm, ...], collective: str, shard: Shard
) -> tuple[Comm | None, tuple[Comm, ...]]:
    """The tensor group's collective that can go with the one GEMM among `ops`, and the others."""
    fit = [comm for comm in comms if comm.group == "tp" and comm.collective == collective]
    if len(fit) != 1 or sum(_is_gemm(op) for op in ops) != 1:
        return None, comms
    if collective == "all_gather" and shard.recipe is not None and not shard.recipe.gathers:
        return None, comms
    return fit[0], tuple(comm for comm in comms if comm is not fit[0])


def _is_gemm(op: Op) -> bool:
    return op.kind == "gemm" and len(op.shape) == 3


def _flat(steps: tuple[Step, ...]) -> tuple[Op, ...]:
    return tuple(op for step in steps for op in step.ops)


def _parts(ops: tuple[Op, ...], count: int) -> tuple[tuple[Op, ...], Op, tuple[Op, ...]]:
    """Return what precedes the GEMM, the GEMM of one of `count` chunks, and what follows it."""
    at = next(i for i, op in enumerate(ops) if _is_gemm(op))
    whole = ops[at]
    m, n, k = whole.shape
    rows = m // count
    part = replace(
        whole,
        flops=whole.flops / count,
        read_bytes=whole.read_bytes * (rows * k + k * n) / (m * k + k * n),
        write_bytes=whole.write_bytes / count,
        shape=(rows, n, k),
        siblings=count,
    )
    return ops[:at], part, ops[at + 1 :]


def _copied(comm: Comm, shard: Shard, copies: int) -> tuple[Comm, ...]:
    """One of `copies` that move what a rank sends of a collective: all but its own 1/t."""
    sent = (shard.tensor - 1) * comm.size_bytes / shard.tensor
    return (Comm("tp", "push", sent / copies, comm.name),)


def _gathered(ops: tuple[Op, ...], comm: Comm, shard: Shard) -> tuple[Step, ...]:
    """A rank begins with its own rows and passes on what it has: n - 1 copies beside n GEMMs."""
    count = shard.tensor if shard.chunk_exchange == "pipeline" else _count(shard)
    before, part, after = _parts(ops, count)
    push = _copied(comm, shard, count - 1)
    first = (Step(before),) if before else ()
    return (*first, *[Step((part,), push)] * (count - 1), Step((part, *after)))


def _scattered(ops: tuple[Op, ...], comm: Comm, shard: Shard) -> tuple[Step, ...]:
    """A rank computes the others' rows first and pushes each to its owner, who adds up t parts."""
    count = _count(shard)
    before, part, after = _parts(ops, count)
    push = _copied(comm, shard, count - 1)
    width = shard.element_bytes
    elements = comm.size_bytes / shard.tensor / width
    name = f"{part.name}_sum"
    reads = shard.tensor
    added = elementwise_op(name, "copy", shard.dtype, elements, reads * width, width, reads - 1.0)
    return (
        Step((*before, part)),
        *[Step((part,), push)] * (count - 1),
        Step((added, *after)),
    )


def _pipelined(ops: tuple[Op, ...], comm: Comm, shard: Shard) -> tuple[Step, ...]:
    """A kernel reduces and scatters each chunk of all ranks' rows beside the GEMM of the next."""
    count = _count(shard)
    before, part, after = _parts(ops, count)
    reduce = (replace(comm, size_bytes=comm.size_bytes / count),)
    return (Step((*before, part)), *[Step((part,), reduce)] * (count - 1), Step(after, reduce))


def _count(shard: Shard) -> int:
    return shard.chunks or shard.tensor


#: policy -> how the result of a row-parallel GEMM is reduced and scattered in chunks
_SCATTERS = {"ring": _scattered, "direct": _scattered, "pipeline": _pipelined}
