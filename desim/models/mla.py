"""Multi-head latent attention (DeepSeek-AI 2024, arXiv:2405.04434, section 2.1 and appendix C).

Queries, keys and values come from compressed vectors: a down projection, a norm and an up
projection each. The down projections are copied on every tensor rank, which applies them to its
own part of the tokens; the up projections are cut by heads (Megatron-LM's `MLASelfAttention`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from desim.models.attention import core_modules
from desim.models.elementwise import elementwise_op, norm, rotary
from desim.models.linear import column_linear, row_linear
from desim.models.op import Comm, Module

if TYPE_CHECKING:
    from desim.models.shard import Shard
    from desim.spec.mixture import Latent
    from desim.spec.workload import Transformer


def latent_modules(model: Transformer, mla: Latent, shard: Shard) -> tuple[Module, ...]:
    """Return the modules of a block's latent attention, without norm and residual."""
    heads = model.heads // shard.tensor
    downs, ups = zip(
        _queries(model, mla, shard, heads), _keys_and_values(model, mla, shard, heads), strict=True
    )
    up = (*ups[0], *ups[1], _positions(mla, shard, heads))
    return (
        *downs[0],
        *downs[1],
        *(replace(module, recompute=(*module.recompute, "mla_up")) for module in up),
        *core_modules(model, shard),
        row_linear("projection", shard, heads * mla.value_head_dim, model.hidden, bias=model.bias),
    )


def _own_tokens(shard: Shard) -> Shard:
    """The shard as a layer sees it whose weights are whole and whose tokens are this rank's."""
    return replace(shard, tensor=1, sequence_length=shard.sequence_length // shard.split)


def _kept(shard: Shard, width: int) -> float:
    return shard.tokens * width * shard.element_bytes


#: Down projection, and what makes queries, or keys and values, of its result.
Pair = tuple[tuple[Module, ...], tuple[Module, ...]]


def _queries(model: Transformer, mla: Latent, shard: Shard, heads: int) -> Pair:
    """Return what makes the queries; attention keeps them."""
    width = heads * mla.query_head_dim
    kept = _kept(shard, width)
    if mla.q_rank is None:
        return (column_linear("q", shard, model.hidden, width, bias=False, kept_bytes=kept),), ()
    rank = mla.q_rank
    return (
        (column_linear("q_down", _own_tokens(shard), model.hidden, rank, bias=False),),
        (
            norm("q_norm", model, shard, width=rank, rows=shard.split_tokens, before_linear=True),
            column_linear("q_up", shard, rank, width, bias=False, kept_bytes=kept, normed=True),
        ),
    )


def _keys_and_values(model: Transformer, mla: Latent, shard: Shard, heads: int) -> Pair:
    """Return what makes keys and values; attention keeps both, the keys with their turned part.

    The down projections read the same input, of which one copy is kept: the queries'. What both
    norms read is kept where it is made.
    """
    own = _own_tokens(shard)
    rank, rope = mla.kv_rank, mla.rope_head_dim
    down = column_linear("kv_down", own, model.hidden, rank + rope, bias=False)
    compressed = norm(
        "kv_norm", model, shard, width=rank, rows=shard.split_tokens, before_linear=True
    )
    size = _kept(shard, rope)
    gather: tuple[Comm, ...] = ()
    reduce: tuple[Comm, ...] = ()
    if shard.sequence_parallel:
        gather = (Comm("tp", "all_gather", size, "rope_key"),)
        reduce = (Comm("tp", "reduce_scatter", size, "rope_key_dx"),)
    elif shard.tensor > 1:
        reduce = (Comm("tp", "all_reduce", size, "rope_key_dx"),)
    width = heads * (mla.nope_head_dim + mla.value_head_dim)
    kept = _kept(shard, heads * (mla.query_head_dim + mla.value_head_dim))
    down = replace(
        down,
        saved_bytes=down.saved_bytes - down.saved_input_bytes + compressed.saved_input_bytes,
        saved_input_bytes=0.0,
        post_forward=gather,
        pre_backward=reduce,
    )
    compressed = replace(
        compressed,
        saved_bytes=compressed.saved_bytes - compressed.saved_input_bytes,
        saved_input_bytes=0.0,
    )
    up = column_linear("kv_up", shard, rank, width, bias=False, kept_bytes=kept, normed=True)
    return (down,), (compressed, up)


def _positions(mla: Latent, shard: Shard, heads: int) -> Module:
    """Rotary positions, and the copy that joins both parts of the keys and parts off the values."""
    width = shard.element_bytes
    elements = float(shard.tokens * heads * (mla.query_head_dim + mla.value_head_dim))
    join = elementwise_op("join_kv", "copy", shard.dtype, elements, width, width, 0.0)
    return rotary(shard, heads, 1, mla.rope_head_dim, (join,))
