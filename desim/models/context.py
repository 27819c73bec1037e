"""Attention over a sequence that is shared by the ranks of a context group.

Each of c ranks holds two chunks of the sequence, i and 2c-1-i of 2c, so that causal work is equal
(Llama Team 2024, arXiv:2407.21783, section 3.3.2). How the ranks see each other's keys is a policy:
all of them gathered at once, passed round a ring step by step (Liu et al. 2023, arXiv:2310.01889),
or heads exchanged for tokens (Ulysses: Jacobs et al. 2023, arXiv:2309.14509).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from desim.models.elementwise import elementwise_op
from desim.models.fused_attention import Rectangle, fused_ops
from desim.models.op import CORE_ATTENTION, Comm, Module, Op, Step

if TYPE_CHECKING:
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
    forward, backward = fused_ops(shard, work)
    gather, scatter = gathered_comms(work, shard)
    core = Module(
        "attention",
        forward=(forward,),
        dgrad=(backward,),
        saved_bytes=work.lse_bytes,
        replay=(),
        replay_saved_bytes=work.lse_bytes + work.query_elements * shard.element_bytes,
        recompute=CORE_ATTENTION,
        pre_forward=gather,
        pre_backward=gather,
        post_dgrad=scatter,
    )
    return (core,)


def ring_core(work: Rectangle, shard: Shard) -> tuple[Module, ...]:
    """Return core attention in c steps, each on the keys of one rank while the next ones arrive.

    Under a causal mask the first step is causal on the rank's own keys; in each other one a rank
    works either with half of its queries on all keys or with all queries on half of the keys, half
    of a square in both cases. The first rank has the former in every step and all wait for it. The
    parts are put together by their log-sum-exp. Backward the keys go round again, and their
    gradients with them, one step behind; the own keys are the last (Transformer Engine's
    `AttnFuncWithCPAndKVP2P`). The keys received last are kept for the backward pass.
    """
    own = work._replace(keys=work.queries)
    other = own._replace(queries=work.queries // 2, causal=False) if work.causal else own
    count = shard.context
    kv_bytes = 2 * own.key_elements * shard.element_bytes
    first, last = fused_ops(shard, own)
    forward, backward = fused_ops(shard, other)
    passed = Comm("cp", "shift", kv_bytes, "key_value")
    steps = [Step((first,), (passed,))]
    steps += [Step((forward,), (passed,))] * (count - 2)
    steps.append(Step((forward, *_joins(other, shard, count - 1))))
    back = [Step((backward,), (passed,))]
    both = Comm("cp", "shift", 2 * kv_bytes, "key_value_dx")
    adds = _adds(other, shard)
    back += [Step((backward, *adds), (both,))] * (count - 2)
    back.append(Step((last, *_adds(own, shard)), (Comm("cp", "shift", kv_bytes, "key_value_dx"),)))
    core = Module(
        "attention",
        forward=tuple(op for step in steps for op in step.ops),
        dgrad=tuple(op for step in back for op in step.ops),
        forward_steps=tuple(steps),
        dgrad_steps=tuple(back),
        saved_bytes=work.lse_bytes + kv_bytes,
        replay=(),
        replay_saved_bytes=work.lse_bytes + kv_bytes + work.query_elements * shard.element_bytes,
        recompute=CORE_ATTENTION,
    )
    return (core,)


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
    """Return core attention on all tokens for 1/c of the heads, all-to-alls before and after.

    Q, K and V go to the ranks of their heads, the output comes back; backward its gradient goes and
    theirs come back: four all-to-alls each way. Each tensor is laid out by destination before it is
    sent and put in the order of the sequence after (Transformer Engine's
    `flash_attn_a2a_communicate`). The backward kernel needs the output as it was before it came
    back: it is saved beside what the projection saves, except before Transformer Engine 2.8, which
    sends the output there once more.
    """
    again = shard.kernels.fusion == "te" and not shard.kernels.te_at_least(2, 8)
    kept_bytes = 0.0 if again else work.query_elements * shard.element_bytes
    count = shard.context
    heads = work._replace(
        heads=work.heads // count, kv_heads=work.kv_heads // count, queries=work.keys
    )
    forward, backward = fused_ops(shard, heads)
    inputs = {"q": work.query_elements, "k": heads.key_elements, "v": heads.key_elements}
    there = tuple(_exchange(name, size, shard) for name, size in inputs.items())
    back = tuple(_exchange(f"d{name}", size, shard) for name, size in inputs.items())
    laid = tuple(_copy(f"{name}_by_rank", size, shard) for name, size in inputs.items())
    sorted_in = tuple(_copy(f"{name}_in_order", size, shard) for name, size in inputs.items())
    output = work.query_elements
    laid_out, sorted_out = _copy("o_by_rank", output, shard), _copy("o_in_order", output, shard)
    return (
        Module(
            "context_scatter",
            forward=laid,
            dgrad=laid,
            recompute=CORE_ATTENTION,
            post_forward=there,
            pre_backward=back,
        ),
        Module(
            "attention",
            forward=(*sorted_in, forward, laid_out),
            dgrad=(sorted_out, backward, *sorted_in),
            saved_bytes=heads.lse_bytes + kept_bytes,
            replay=(),
            replay_saved_bytes=heads.lse_bytes + kept_bytes,
            recompute=CORE_ATTENTION,
        ),
        Module(
            "context_gather",
            forward=(sorted_out,),
            dgrad=(laid_out,),
            recompute=CORE_ATTENTION,
            pre_forward=(_exchange("o", output, shard),),
            post_dgrad=tuple(
                _exchange(name, output, shard) for name in (("do", "o") if again else ("do",))
            ),
        ),
    )


def _exchange(name: str, elements: int, shard: Shard) -> Comm:
    return Comm("cp", "all_to_all", elements * shard.element_bytes, name)


def _copy(name: str, elements: int, shard: Shard) -> Op:
    width = shard.element_bytes
    return elementwise_op(name, "copy", shard.dtype, elements, width, width, 0)


#: policy -> how core attention is shared over the context group
CONTEXT_CORES = {"all_gather": gathered_core, "ring": ring_core, "all_to_all": exchanged_core}
