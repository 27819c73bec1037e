"""The attention half of a transformer block: QKV, rotary positions, the core, the projection.

Saved bytes with s, b, h, a, t as in Korthikanti et al. 2022 (arXiv:2205.05198, section 4), 16-bit:
the QKV input 2sbh, Q, K and V 6sbh, the projection's input 2sbh, and the core's 5as^2b (softmax
output 2, dropout mask 1, dropout output 2). With k of a heads for keys and values Q, K and V take
2sbd(a + 2k), d the head dimension. A fused core keeps the log-sum-exp, 4 B per query and head,
instead of 5as^2b; its output is the projection's input and is saved there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from desim.models import passes
from desim.models.context import CONTEXT_CORES, gathered_comms
from desim.models.elementwise import dropout_ops, elementwise_op, norm, pass_ops, rotary
from desim.models.fused_attention import Rectangle
from desim.models.gemm import gemm
from desim.models.linear import apart, column_linear, partly_replayed, row_linear
from desim.models.op import CORE_ATTENTION, Module, Op

if TYPE_CHECKING:
    from desim.models.shard import Shard
    from desim.spec.workload import Transformer


def heads_of(model: Transformer, shard: Shard) -> tuple[int, int]:
    """Return this rank's query heads and key-value heads (one is copied where too few exist)."""
    return model.heads // shard.tensor, max(1, model.kv_heads // shard.tensor)


def head_dims(model: Transformer) -> tuple[int, int]:
    """Return the width of a head's query and key, and of its value."""
    if model.mla is None:
        return model.head_dim, model.head_dim
    return model.mla.query_head_dim, model.mla.value_head_dim


def core_modules(model: Transformer, shard: Shard) -> tuple[Module, ...]:
    """Return core attention: from queries, keys and values to the projection's input."""
    core = _unfused_core if shard.kernels.attention == "unfused" else _fused_core
    return core(model, shard)


def attention_modules(model: Transformer, shard: Shard) -> tuple[Module, ...]:
    """Return the modules of a block's attention, without norm and residual.

    Per-op recomputation keeps every second matrix product, the first and third of Q, K and V among
    them, and the result of fused attention (torchtitan's `selective: op`).
    """
    heads, kv_heads = heads_of(model, shard)
    packed = (heads + 2 * kv_heads) * model.head_dim
    qkv = column_linear(
        "qkv",
        shard,
        model.hidden,
        packed,
        bias=model.bias,
        kept_bytes=shard.tokens * packed * shard.element_bytes,
        normed=True,
    )
    width = model.head_dim
    qkv = partly_replayed(
        qkv, shard, model.hidden, kept=(heads + kv_heads) * width, again=kv_heads * width
    )
    if "qkv" in shard.kernels.apart:
        qkv = apart(qkv, shard, model.hidden, 3)
    between: tuple[Module, ...] = ()
    if model.qk_norm:
        counts = {"q_norm": heads, "k_norm": kv_heads}
        between = tuple(
            norm(name, model, shard, width=model.head_dim, rows=shard.tokens * count)
            for name, count in counts.items()
        )
    if model.position == "rope":
        between = (*between, rotary(shard, heads, kv_heads, model.head_dim))
    projection = row_linear(
        "projection", shard, heads * model.head_dim, model.hidden, bias=model.bias
    )
    core = _copied(model, shard, core_modules(model, shard))
    return (qkv, *between, *core, projection)


def _copied(model: Transformer, shard: Shard, core: tuple[Module, ...]) -> tuple[Module, ...]:
    """Return core attention between the copies that its layout needs.

    The gradients of queries, keys and values are joined to that of their projection where the
    projection is one and they are made apart: always but in Transformer Engine without rotary
    positions, and where they are projected apart (torchtitan, the stack of `compile`).
    Megatron-LM's own attention (`apex`; model/transformer.py) also turns its result from heads
    first or sequence first into the order of tokens, and for flash attention all inputs before.
    """
    kernels = shard.kernels
    core = (*_repeated(model, shard), *_unpadded(model, shard, core))
    joined = {
        "apex": True,
        "eager": True,
        "te": model.position == "rope",
        "compile": False,
    }[kernels.fusion]
    if kernels.packed_attention or not joined:
        return core
    heads, kv_heads = heads_of(model, shard)
    width = shard.element_bytes
    packed = float(shard.tokens * (heads + 2 * kv_heads) * model.head_dim)

    def copy(name: str, elements: float) -> Op:
        return elementwise_op(name, "copy", shard.dtype, elements, width, width, 0.0)

    turned: tuple[Op, ...] = ()
    after: tuple[Module, ...] = ()
    if kernels.fusion == "apex":
        output = copy("attention_output", float(shard.tokens * heads * model.head_dim))
        after = (Module("attention_output", forward=(output,)),)
        if kernels.attention != "unfused":
            turned = (copy("attention_inputs", packed),)
    before = Module("attention_inputs", forward=turned, dgrad=(copy("join_qkv_dx", packed),))
    return (before, *core, *after)


def _repeated(model: Transformer, shard: Shard) -> tuple[Module, ...]:
    """Return the copies of `kernels.repeat_kv`: of this context rank's tokens, and saved."""
    heads, kv_heads = heads_of(model, shard)
    if not shard.kernels.repeat_kv or shard.kernels.attention == "unfused":
        return ()
    forward, back, extra = _repeat_ops(model, shard, heads, kv_heads, shard.tokens)
    return (Module("repeat_kv", forward=forward, dgrad=back, saved_bytes=extra),) if extra else ()


def _unpadded(model: Transformer, shard: Shard, core: tuple[Module, ...]) -> tuple[Module, ...]:
    """Return attention between the copies of `kernels.unpadded_attention`.

    flash-attn's bert_padding.py: `unpad_input` gathers queries, keys and values one by one, and for
    each the host waits for the tokens' places and the longest length; `pad_input` clears a batch
    and puts the result in it. Backward the other way round.
    """
    if not shard.kernels.unpadded_attention:
        return core
    heads, kv_heads = heads_of(model, shard)
    width = shard.element_bytes

    def copy(name: str, count: int, clear: int) -> Op:
        elements = float(shard.tokens * count * model.head_dim)
        return elementwise_op(name, "copy", shard.dtype, elements, width, width * (1 + clear), 0.0)

    def taken(part: str, count: int) -> Module:
        name = f"unpad_{part}"
        return Module(
            name,
            forward=(copy(name, count, 0),),
            dgrad=(copy(f"{name}_dx", count, 1),),
            read_back=True,
        )

    after = Module("pad", forward=(copy("pad", heads, 1),), dgrad=(copy("pad_dx", heads, 0),))
    before = (taken("q", heads), taken("k", kv_heads), taken("v", kv_heads))
    return (*before, *core, after)


def _rectangle(model: Transformer, shard: Shard) -> Rectangle:
    """This rank's queries against all keys of the sequence.

    Values narrower than keys count with their mean: FLOPs and bytes of both together are the same.
    """
    heads, kv_heads = heads_of(model, shard)
    dim, value_dim = head_dims(model)
    return Rectangle(
        batch=shard.micro_batch,
        heads=heads,
        kv_heads=heads if shard.kernels.repeat_kv else kv_heads,
        queries=shard.queries,
        keys=shard.sequence_length,
        dim=(dim + value_dim) // 2,
        causal=model.causal,
        values_over_keys=value_dim / dim,
    )


def _fused_core(model: Transformer, shard: Shard) -> tuple[Module, ...]:
    exchange = shard.context_exchange if shard.context > 1 else "all_gather"
    return CONTEXT_CORES[exchange](_rectangle(model, shard), shard)


def _unfused_core(model: Transformer, shard: Shard) -> tuple[Module, ...]:
    """Scores, softmax, dropout and weighted sum, each in device memory; all are recomputable.

    GEMMs and kernels work on the whole square of scores, also under a mask.
    """
    scores, context = _score_module(model, shard), _weighted_sum_module(model, shard)
    heads = heads_of(model, shard)[0]
    elements = float(shard.micro_batch * heads * shard.queries * shard.sequence_length)
    chain = passes.SOFTMAX[shard.kernels.fusion]
    softmax = Module(
        "softmax",
        forward=pass_ops("softmax", "softmax", shard, elements, chain.forward),
        dgrad=pass_ops("softmax", "softmax", shard, elements, chain.dgrad),
        saved_bytes=elements * shard.element_bytes,
        recompute=CORE_ATTENTION,
    )
    if not model.dropout:
        return (scores, softmax, context)
    dropout = Module(
        "attention_dropout",
        forward=dropout_ops("attention_dropout", shard, elements, backward=False),
        dgrad=dropout_ops("attention_dropout", shard, elements, backward=True),
        saved_bytes=elements * (1 + shard.element_bytes),  # mask, and output for the next GEMM
        recompute=CORE_ATTENTION,
    )
    return (scores, softmax, dropout, context)


def _useful(model: Transformer, shard: Shard) -> float:
    """Share of the square of scores that a mask leaves: causal, and inside documents."""
    return (0.5 if model.causal else 1.0) * (shard.packing.density if shard.packing else 1.0)


def _score_module(model: Transformer, shard: Shard) -> Module:
    heads, kv_heads = heads_of(model, shard)
    batch, queries, keys = shard.micro_batch * heads, shard.queries, shard.sequence_length
    useful = _useful(model, shard)
    dim = head_dims(model)[0]
    tokens = shard.micro_batch * shard.sequence_length
    repeat, repeat_back, extra = _repeat_ops(model, shard, heads, kv_heads, tokens)
    gather, scatter = gathered_comms(_rectangle(model, shard), shard)
    return Module(
        "scores",
        forward=(*repeat, gemm("scores", shard, (queries, keys, dim, batch), useful=useful)),
        dgrad=(
            gemm("scores_dq", shard, (queries, dim, keys, batch), "dgrad", useful=useful),
            gemm("scores_dk", shard, (keys, dim, queries, batch), "wgrad", useful=useful),
            *repeat_back,
        ),
        saved_bytes=extra,
        recompute=CORE_ATTENTION,
        pre_forward=gather,
        pre_backward=gather,
        post_dgrad=scatter,
    )


def _weighted_sum_module(model: Transformer, shard: Shard) -> Module:
    heads, _ = heads_of(model, shard)
    batch, queries, keys = shard.micro_batch * heads, shard.queries, shard.sequence_length
    useful = _useful(model, shard)
    dim = head_dims(model)[1]
    return Module(
        "weighted_sum",
        forward=(gemm("weighted_sum", shard, (queries, dim, keys, batch), useful=useful),),
        dgrad=(
            gemm("weighted_sum_dp", shard, (queries, keys, dim, batch), "dgrad", useful=useful),
            gemm("weighted_sum_dv", shard, (keys, dim, queries, batch), "wgrad", useful=useful),
        ),
        recompute=CORE_ATTENTION,
    )


def _repeat_ops(
    model: Transformer, shard: Shard, heads: int, kv_heads: int, tokens: int
) -> tuple[tuple[Op, ...], tuple[Op, ...], float]:
    """Return the copies that give every query head its own K and V, and what they add to saved.

    The batched GEMMs need one K and V per head; a fused kernel does not. `tokens` are those of the
    whole sequence where keys are gathered before they are copied.
    """
    if kv_heads == heads:
        return (), (), 0.0
    width = shard.element_bytes
    elements = 2 * tokens * heads * model.head_dim
    share = kv_heads / heads
    forward = elementwise_op("repeat_kv", "copy", shard.dtype, elements, width * share, width, 0)
    back = elementwise_op("repeat_kv_dx", "copy", shard.dtype, elements, width, width * share)
    return (forward,), (back,), elements * (1 - share) * width
