"""A mixture of experts in place of a block's MLP, as Megatron-LM's all-to-all dispatcher runs it.

A router chooses `top_k` experts for each token (Shazeer et al. 2017, arXiv:1701.06538). The tokens
of a rank are permuted into the order of their experts, exchanged over the expert group, gathered
over the expert tensor group, sorted by local expert and multiplied by one weight per expert; the
way back mirrors it (Lepikhin et al. 2020, arXiv:2006.16668; Megatron-Core's `token_dispatcher`).
The router's probabilities travel with the tokens and scale the activation inside the experts.

Tokens are taken to be spread evenly over the experts; `imbalance` gives every rank the work of the
busiest, `shard.expert_load` each its own (all-to-alls take as long as the busiest rank receives).
The all-to-alls stand alone, or run beside the shared expert, or are cut in chunks that run beside
the experts. A capacity makes the buffers of all experts equal: `ceil(tokens x top_k / experts x
factor)` rows each, known to the host in advance (Fedus et al. 2021, arXiv:2101.03961, equation 3).
Without one the host reads the counts back before it can launch what follows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Literal

from desim.models.elementwise import activation, elementwise_op
from desim.models.expert_chunks import chunked_experts
from desim.models.grouped import grouped_linear
from desim.models.mlp import mlp_modules
from desim.models.op import Comm, Module, Op
from desim.models.router import router

if TYPE_CHECKING:
    from desim.models.shard import Shard
    from desim.spec.mixture import Mixture
    from desim.spec.workload import Transformer

_ROW_ID_BYTES = 4  # int32 place of every permuted row, kept for the way back
_PROBABILITY_BYTES = 4  # probabilities travel in fp32


@dataclass(frozen=True, slots=True)
class Traffic:
    """Rows of hidden width that one rank moves: `sent` over the expert group, `worked` on.

    `local` experts are on this rank, each with `each` rows. An all-to-all is `paced` by what the
    busiest rank receives.
    """

    tokens: float
    sent: float
    worked: float
    local: int
    paced: float

    def part(self, count: int) -> Traffic:
        """One of `count` equal parts."""
        return Traffic(
            self.tokens / count,
            self.sent / count,
            self.worked / count,
            self.local,
            self.paced / count,
        )

    @property
    def each(self) -> int:
        """Rows of one expert on this rank."""
        return max(1, ceil(self.worked / self.local))


def traffic(moe: Mixture, shard: Shard) -> Traffic:
    """Return the rows that this rank sends and works on in one layer of one micro-batch."""
    tokens = shard.split_tokens
    if moe.capacity_factor is None:
        sent = tokens * moe.top_k * (moe.imbalance if shard.busiest_load == 1 else 1.0)
    else:
        capacity = ceil(tokens * moe.top_k / moe.experts * moe.capacity_factor)
        sent = float(moe.experts * capacity)
    worked = sent * shard.expert_tensor * shard.expert_load
    return Traffic(tokens, sent, worked, moe.experts // shard.expert, sent * shard.busiest_load)


def mixture_modules(model: Transformer, moe: Mixture, shard: Shard) -> tuple[Module, ...]:
    """Return the modules of a block's experts, without norm and residual."""
    rows = traffic(moe, shard)
    parts = (
        _dispatch(model, shard, rows),
        *_experts(model, moe, shard, rows),
    )
    moves = bool(parts[0].post_forward)
    if moves and shard.expert_chunks > 1:
        parts = _chunked(model, moe, shard, rows, parts)
    shared = _shared(model, moe, shard)
    route = router(model, moe, shard)
    combine = _combine(model, moe, shard, rows)
    modules = (*shared, route, *parts, combine)
    if moves and shared and shard.shared_beside:
        modules = (route, *_beside_shared(shared, parts), combine)
    return tuple(replace(module, recompute=(*module.recompute, "experts")) for module in modules)


def _experts(model: Transformer, moe: Mixture, shard: Shard, rows: Traffic) -> tuple[Module, ...]:
    """Return what a rank does with the rows that it received, and their way back."""
    width = moe.ffn // shard.expert_tensor
    name = "experts_gate_up" if model.gated else "experts_up"
    outputs = 2 * width if model.gated else width
    shape = (rows.local, rows.each)
    sort = () if rows.local == 1 else (_sort("sort", model, shard, rows),)
    return (
        *sort,
        grouped_linear(name, shard, shape, model.hidden, outputs, bias=model.bias),
        replace(
            activation(model, shard, float(rows.worked * width), "experts_activation"),
            recompute=("expert_activation",),
        ),
        grouped_linear("experts_down", shard, shape, width, model.hidden, bias=model.bias),
        _return(model, shard, rows),
    )


def _chunked(
    model: Transformer, moe: Mixture, shard: Shard, rows: Traffic, parts: tuple[Module, ...]
) -> tuple[Module, ...]:
    """Return dispatch and experts in chunks, each of which travels while others are computed."""
    count = shard.expert_chunks
    part = rows.part(count)
    dispatch, *inner = parts
    first = _dispatch(model, shard, part)
    cut = _experts(model, moe, shard, part)
    experts = chunked_experts(tuple(inner), cut, first, count)
    there, back = first.post_forward, first.pre_backward
    return (replace(dispatch, post_forward=there, pre_backward=back), experts)


def _beside_shared(shared: tuple[Module, ...], parts: tuple[Module, ...]) -> tuple[Module, ...]:
    """Return the shared expert's first half beside the dispatch and its second beside the return.

    Its input is gathered before (Megatron-Core's transformer/moe/shared_experts.py, whose second
    stream begins and ends the same way; `--moe-shared-expert-overlap`). It is not recomputed by
    itself there.
    """
    first, act, last = (replace(module, recompute=()) for module in shared)
    dispatch, *inner, back = parts
    dispatch = replace(dispatch, beside=2, pre_forward=first.pre_forward)
    first = replace(first, pre_forward=())
    return (dispatch, first, act, *inner, replace(back, beside=1), last)


def _shared(model: Transformer, moe: Mixture, shard: Shard) -> tuple[Module, ...]:
    """Return the shared expert, an MLP for every token; its input is kept by the router."""
    if not moe.shared_ffn:
        return ()
    up, *rest = mlp_modules(model, shard, moe.shared_ffn, "shared_")
    kept = up.saved_input_bytes
    shared = (replace(up, saved_bytes=up.saved_bytes - kept, saved_input_bytes=0.0), *rest)
    return tuple(
        replace(module, recompute=tuple(name for name in module.recompute if name != "mlp"))
        for module in shared
    )


def _move(
    name: str, model: Transformer, shard: Shard, elements: float, read: float, written: float
) -> Op:
    """Return a kernel that moves rows of hidden width, `read` to `written`."""
    width = shard.element_bytes
    return Op(
        name,
        "permute",
        shard.dtype,
        0.0,
        read * model.hidden * width,
        written * model.hidden * width,
        (int(elements * model.hidden),),
    )


def _hops(
    model: Transformer, shard: Shard, rows: Traffic, way: Literal["dispatch", "combine"], end: str
) -> tuple[Comm, ...]:
    """Return the collectives that bring rows to their experts, or back: the mirrored way.

    `end` is added to their names.
    """
    out = way == "dispatch"
    row = model.hidden * shard.element_bytes
    comms = []
    if shard.expert > 1:
        comms.append(Comm("ep", "all_to_all", rows.paced * row, f"{way}{end}"))
    if shard.expert_tensor > 1:
        collective: Literal["all_gather", "reduce_scatter"]
        collective = "all_gather" if out else "reduce_scatter"
        comms.append(Comm("etp", collective, rows.worked * row, f"expert_rows{end}"))
    return tuple(comms if out else reversed(comms))


def _dispatch(model: Transformer, shard: Shard, rows: Traffic) -> Module:
    """Copy every token once per expert that it visits, in the order of the experts."""
    probabilities: tuple[Comm, ...] = ()
    if shard.expert > 1:
        size = rows.paced * _PROBABILITY_BYTES
        probabilities = (Comm("ep", "all_to_all", size, "probabilities"),)
    sent, tokens = rows.sent, rows.tokens
    return Module(
        "dispatch",
        forward=(_move("permute", model, shard, sent, tokens, sent),),
        dgrad=(_move("permute_dx", model, shard, sent, sent, tokens),),
        saved_bytes=rows.sent * _ROW_ID_BYTES,
        post_forward=(*_hops(model, shard, rows, "dispatch", ""), *probabilities),
        pre_backward=_hops(model, shard, rows, "combine", "_dx"),
    )


def _sort(name: str, model: Transformer, shard: Shard, rows: Traffic) -> Module:
    """Bring the rows that came from different ranks into the order of the local experts."""
    worked = rows.worked
    return Module(
        name,
        forward=(_move(name, model, shard, worked, worked, worked),),
        dgrad=(_move(f"{name}_dx", model, shard, worked, worked, worked),),
    )


def _return(model: Transformer, shard: Shard, rows: Traffic) -> Module:
    """Bring the experts' results back to the ranks of their tokens."""
    moved = Module("unsort", forward=())
    if rows.local > 1:
        moved = _sort("unsort", model, shard, rows)
    return replace(
        moved,
        post_forward=_hops(model, shard, rows, "combine", ""),
        pre_backward=_hops(model, shard, rows, "dispatch", "_dy"),
    )


def _combine(model: Transformer, moe: Mixture, shard: Shard, rows: Traffic) -> Module:
    """Add up the results of every token's experts, and the shared expert's, gated if asked."""
    sent, tokens = rows.sent, rows.tokens
    forward = [_move("unpermute", model, shard, sent, sent, tokens)]
    dgrad = [_move("unpermute_dx", model, shard, sent, tokens, sent)]
    elements, width = tokens * model.hidden, shard.element_bytes
    parameters, saved = 0, 0.0
    if moe.shared_ffn:
        if moe.shared_gate:
            parameters, saved = model.hidden, elements * width
            forward.append(
                elementwise_op("shared_gate", "router", shard.dtype, elements, 2 * width, width)
            )
            dgrad.append(
                elementwise_op("shared_gate_dx", "router", shard.dtype, elements, 3 * width, width)
            )
        add = elementwise_op("shared_add", "residual", shard.dtype, elements, 2 * width, width)
        forward.append(add)
    return Module(
        "combine",
        forward=tuple(forward),
        dgrad=tuple(dgrad),
        parameters=parameters,
        saved_bytes=saved,
    )
