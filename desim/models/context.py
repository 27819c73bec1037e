"""Attention over a sequence that is shared by the ranks of a context group.

Each of c ranks holds two chunks of the sequence, i and 2c-1-i of 2c, so that causal work is equal
(Llama Team 2024, arXiv:2407.21783, section 3.3.2); or one chunk, i of c, of which the last has most
to do (`shard.context_place` says which, None: two chunks). How the ranks see each other's keys is a
policy: all of them gathered at once, passed round a ring step by step (Liu et al. 2023,
arXiv:2310.01889), heads exchanged for tokens (Ulysses: Jacobs et al. 2023, arXiv:2309.14509), or
heads exchanged among neighbours and keys passed round a ring across (`two_level`).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from desim.models.elementwise import elementwise_op
from desim.models.fused_attention import Rectangle, fused_ops
from desim.models.op import CORE_ATTENTION, Comm, Module, Op, Step

if TYPE_CHECKING:
    from collections.abc import Iterable

    from desim.models.shard import Shard


def gathered_comms(work: Rectangle, shard: Shard) -> tuple[tuple[Comm, ...], tuple[Comm, ...]]:
    """Return the gather of K and V over the context group and the scatter of their gradients.

    `work.keys` are those of the whole sequence. Only the rank's own K and V are saved: they are
    gathered again for the backward pass.
    """
    if shard.context == 1:
        return (), ()
    size = 2 * work.key_elements * shard.element_bytes
    return (
        (Comm("cp", "all_gather", size, "key_value"),),
        (Comm("cp", "reduce_scatter", size, "key_value_dx"),),
    )


def gathered_core(work: Rectangle, shard: Shard) -> tuple[Module, ...]:
    """Return core attention on all keys; `work` holds this rank's queries and all keys."""
    forward, backward = _seen(work, shard)
    gather, scatter = gathered_comms(work, shard)
    core = Module(
        "attention",
        forward=forward,
        dgrad=backward,
        saved_bytes=work.lse_bytes,
        replay=(),
        replay_saved_bytes=work.lse_bytes + work.query_elements * shard.element_bytes,
        recompute=CORE_ATTENTION,
        pre_forward=gather,
        pre_backward=gather,
        post_dgrad=scatter,
    )
    return (core,)


def _seen(work: Rectangle, shard: Shard) -> tuple[tuple[Op, ...], tuple[Op, ...]]:
    """Kernels forward and backward on the keys that this rank's queries see.

    In one chunk those are the triangle of its own and the whole rectangle of all before them, which
    is counted as a kernel beside it.
    """
    place = shard.context_place
    if place is None or not work.causal:
        parts = [work]
    else:
        parts = [work._replace(keys=work.queries)]
        if place:
            parts.append(work._replace(keys=place * work.queries, causal=False))
    kernels = [fused_ops(shard, part) for part in parts]
    return tuple(forward for forward, _ in kernels), tuple(back for _, back in kernels)


def ring_core(work: Rectangle, shard: Shard) -> tuple[Module, ...]:
    """Return core attention in c steps round the context group."""
    return (_ring(work, shard, "cp", shard.context),)


def _passes(
    work: Rectangle, shard: Shard, count: int
) -> tuple[list[tuple[Op, ...]], list[tuple[Op, ...]], int]:
    """Return the kernels of the c - 1 steps on others' keys each way, and how many compute.

    In two chunks a rank works either with half of its queries on all keys or with all queries on
    half of the keys, half of a square in both cases. In one chunk the i-th rank sees the keys of
    the i before it, which come first on the way forward and last on the way back.
    """
    place = shard.context_place if work.causal else None
    own = work._replace(keys=work.queries)
    if place is None:
        half = work.queries // 2 if work.causal else work.queries
        other = own._replace(queries=half, causal=False)
        forward, backward = fused_ops(shard, other)
        rest = count - 1
        return [(forward,)] * rest, [(backward, *_adds(other, shard))] * rest, rest
    other = own._replace(causal=False)
    forward, backward = fused_ops(shard, other)
    idle: list[tuple[Op, ...]] = [()] * (count - 1 - place)
    back = [(backward, *_adds(other, shard))] * place
    return [(forward,)] * place + idle, idle + back, place


def _ring(work: Rectangle, shard: Shard, group: str, count: int) -> Module:
    """Return attention in `count` steps, each on the keys of one rank while the next ones arrive.

    Under a causal mask the first step is causal on the rank's own keys. The parts are put together
    by their log-sum-exp. Backward the keys go round again, and their gradients with them, one step
    behind; the own keys are the last (Transformer Engine's `AttnFuncWithCPAndKVP2P`). The keys
    received last are kept for the backward pass.
    """
    own = work._replace(keys=work.queries)
    other = own._replace(queries=work.queries // 2) if _halves(work, shard) else own
    kv_bytes = 2 * own.key_elements * shard.element_bytes
    first, last = fused_ops(shard, own)
    there, back_ops, joined = _passes(work, shard, count)
    passed = (Comm(group, "shift", kv_bytes, "key_value"),)
    both = (Comm(group, "shift", 2 * kv_bytes, "key_value_dx"),)
    gradients = (Comm(group, "shift", kv_bytes, "key_value_dx"),)
    steps = [Step((first,), passed), *(Step(ops, passed) for ops in there[:-1])]
    steps.append(Step((*there[-1], *_joins(other, shard, joined))))
    back = [Step(back_ops[0][:1], passed), *(Step(ops, both) for ops in back_ops[1:])]
    back.append(Step((last, *_adds(own, shard)), gradients))
    saved = work.lse_bytes + kv_bytes
    return Module(
        "attention",
        forward=_ops(steps),
        dgrad=_ops(back),
        forward_steps=tuple(steps),
        dgrad_steps=tuple(back),
        saved_bytes=saved,
        replay=(),
        replay_saved_bytes=saved + work.query_elements * shard.element_bytes,
        recompute=CORE_ATTENTION,
    )


def _halves(work: Rectangle, shard: Shard) -> bool:
    """Whether a step on others' keys has half of a square."""
    return work.causal and shard.context_place is None


def _ops(steps: Iterable[Step]) -> tuple[Op, ...]:
    return tuple(op for step in steps for op in step.ops)


def _joins(work: Rectangle, shard: Shard, count: int) -> tuple[Op, ...]:
    """Scale the output of every step by its log-sum-exp and add it to the whole."""
    width = shard.element_bytes
    statistic = elementwise_op(
        "attention_lse", "softmax", "fp32", work.batch * work.heads * work.queries, 8, 4
    )
    output = elementwise_op(
        "attention_join", "softmax", shard.dtype, work.query_elements, 2 * width, width
    )
    return (statistic,) * count + (output,) * count


def _adds(work: Rectangle, shard: Shard) -> tuple[Op, ...]:
    """Add a step's gradients to those of the queries and to those that came with the keys."""
    width = shard.element_bytes
    sizes = {"attention_dq_add": work.query_elements, "attention_dkv_add": 2 * work.key_elements}
    return tuple(
        elementwise_op(name, "copy", shard.dtype, size, 2 * width, width)
        for name, size in sizes.items()
    )


def exchanged_core(work: Rectangle, shard: Shard) -> tuple[Module, ...]:
    """Return core attention on all tokens for 1/c of the heads, all-to-alls before and after."""
    heads = work._replace(
        heads=work.heads // shard.context,
        kv_heads=work.kv_heads // shard.context,
        queries=work.keys,
    )
    forward, backward = fused_ops(shard, heads)
    core = Module(
        "attention",
        forward=(forward,),
        dgrad=(backward,),
        saved_bytes=heads.lse_bytes,
        replay=(),
        replay_saved_bytes=heads.lse_bytes,
        recompute=CORE_ATTENTION,
    )
    return _exchanged(work, heads.key_elements, shard, "cp", core)


def two_level_core(work: Rectangle, shard: Shard) -> tuple[Module, ...]:
    """Return core attention with heads exchanged among neighbours and a ring across them.

    `shard.context_inside` = a neighbours exchange heads for tokens, so that each has 1/a of the
    heads of the tokens of all a; c / a such ranks pass keys and values round (Fang and Zhao 2024,
    arXiv:2405.07719, "USP"; Megatron-LM `--cp-comm-type a2a+p2p`).
    """
    inside = shard.context_inside
    heads = work._replace(
        heads=work.heads // inside,
        kv_heads=work.kv_heads // inside,
        queries=work.queries * inside,
    )
    across = shard.context // inside
    if inside == 1:
        return ring_core(work, shard)
    if across == 1:
        return exchanged_core(work, shard)
    own = heads._replace(keys=heads.queries).key_elements
    core = _ring(heads, shard, "cp_across", across)
    return _exchanged(work, own, shard, "cp_inside", core)


def _exchanged(
    work: Rectangle, key_elements: int, shard: Shard, group: str, core: Module
) -> tuple[Module, ...]:
    """Return `core`, which works on a part of the heads, between the all-to-alls of a group.

    Q, K and V go to the ranks of their heads, the output comes back; backward its gradient goes and
    theirs come back: four all-to-alls each way. Each tensor is laid out by destination before it is
    sent and put in the order of the sequence after (Transformer Engine's
    `flash_attn_a2a_communicate`). The backward kernel needs the output as it was before it came
    back: it is saved beside what the projection saves, except before Transformer Engine 2.8, which
    sends the output there once more.
    """
    again = shard.kernels.fusion == "te" and not shard.kernels.te_at_least(2, 8)
    kept_bytes = 0.0 if again else work.query_elements * shard.element_bytes
    inputs = {"q": work.query_elements, "k": key_elements, "v": key_elements}
    exchange = partial(_exchange, shard, group)
    there = tuple(exchange(name, size) for name, size in inputs.items())
    back = tuple(exchange(f"d{name}", size) for name, size in inputs.items())
    laid = tuple(_copy(f"{name}_by_rank", size, shard) for name, size in inputs.items())
    sorted_in = tuple(_copy(f"{name}_in_order", size, shard) for name, size in inputs.items())
    output = work.query_elements
    laid_out, sorted_out = _copy("o_by_rank", output, shard), _copy("o_in_order", output, shard)
    returned = ("do", "o") if again else ("do",)
    return (
        Module(
            "context_scatter",
            forward=laid,
            dgrad=laid,
            recompute=CORE_ATTENTION,
            post_forward=there,
            pre_backward=back,
        ),
        replace(
            _between(core, sorted_in, (laid_out,), (sorted_out,)),
            saved_bytes=core.saved_bytes + kept_bytes,
            replay_saved_bytes=core.saved_bytes + kept_bytes,
        ),
        Module(
            "context_gather",
            forward=(sorted_out,),
            dgrad=(laid_out,),
            recompute=CORE_ATTENTION,
            pre_forward=(exchange("o", output),),
            post_dgrad=tuple(exchange(name, output) for name in returned),
        ),
    )


def _between(
    core: Module, before: tuple[Op, ...], after: tuple[Op, ...], gradient: tuple[Op, ...]
) -> Module:
    """`core` between the kernels that put its inputs in order and those that lay out its result."""
    steps, back = core.forward_steps, core.dgrad_steps
    return replace(
        core,
        forward=(*before, *core.forward, *after),
        dgrad=(*gradient, *core.dgrad, *before),
        forward_steps=(Step(before), *steps, Step(after)) if steps else (),
        dgrad_steps=(Step(gradient), *back, Step(before)) if back else (),
    )


def _exchange(shard: Shard, group: str, name: str, elements: int) -> Comm:
    return Comm(group, "all_to_all", elements * shard.element_bytes, name)


def _copy(name: str, elements: int, shard: Shard) -> Op:
    width = shard.element_bytes
    return elementwise_op(name, "copy", shard.dtype, elements, width, width, 0)


#: policy -> how core attention is shared over the context group
CONTEXT_CORES = {
    "all_gather": gathered_core,
    "ring": ring_core,
    "all_to_all": exchanged_core,
    "two_level": two_level_core,
}
