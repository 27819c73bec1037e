"""Grouped GEMM: one linear layer per local expert, each with rows of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from desim.models.accumulate import accumulation_ops, gemm_sum_bytes
from desim.models.linear import linear_product, weight_gradient_bytes
from desim.models.op import Module, Op
from desim.models.quantize import cast_ops, saved_width, weight_cast_ops

if TYPE_CHECKING:
    from desim.models.shard import Shard


def grouped_linear(
    name: str,
    shard: Shard,
    rows: tuple[int, int],
    inputs: int,
    outputs: int,
    *,
    bias: bool,
) -> Module:
    """Return the linear layers of `rows[0]` local experts with `rows[1]` rows each.

    The host launches a GEMM per expert (Transformer Engine's `GroupedLinear`: cuBLAS on several
    streams). Saves its input; `te` and `apex` add weight gradients inside the GEMM.
    """
    groups, each = rows
    weights = groups * inputs * outputs
    total = replace(shard, tensor=1, context=1, micro_batch=1, sequence_length=groups * each)
    x, dy = (
        cast_ops(name, total, "input", inputs),
        cast_ops(f"{name}_dy", total, "gradient", outputs),
    )
    weight = cast_ops(f"{name}_weight", total, "weight", weights)
    forward = linear_product(name, shard, (each, outputs, inputs, groups), "forward")
    dgrad = linear_product(f"{name}_dgrad", shard, (each, inputs, outputs, groups), "dgrad")
    wgrad = _wgrad_ops(f"{name}_wgrad", shard, (outputs, inputs, each, groups))
    return Module(
        name,
        forward=(*x[0], *weight[0], _grouped(forward)),
        dgrad=(*dy[0], *weight[1], _grouped(dgrad)),
        wgrad=(*x[1], *dy[1], *wgrad),
        parameters=weights + (groups * outputs if bias else 0),
        saved_bytes=total.tokens * inputs * saved_width(shard),
        saved_input_bytes=total.tokens * inputs * saved_width(shard),
        weight_gradient_bytes=weight_gradient_bytes(shard, weights),
        expert=True,
        weight_casts=weight_cast_ops(name, shard, weights),
        quantized=weights if shard.recipe else 0,
    )


def _grouped(op: Op) -> Op:
    return replace(op, kind="grouped_gemm")


def _wgrad_ops(name: str, shard: Shard, shape: tuple[int, int, int, int]) -> tuple[Op, ...]:
    product = _grouped(linear_product(name, shard, shape, "wgrad", gemm_sum_bytes(shard)))
    return (product, *accumulation_ops(name, shard, shape[0] * shape[1] * shape[3]))
