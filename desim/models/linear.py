"""GEMMs: column-parallel and row-parallel linear layers with their three GEMMs and collectives."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from desim.models.accumulate import accumulation_ops, gemm_sum_bytes
from desim.models.elementwise import elementwise_op
from desim.models.gemm import gemm
from desim.models.lora import adapt
from desim.models.op import Comm, Module, Op
from desim.models.quantize import (
    amax_reduction,
    cast_ops,
    gathered_bytes,
    saved_width,
    weight_cast_ops,
)

if TYPE_CHECKING:
    from desim.models.shard import Shard


def linear_product(
    name: str,
    shard: Shard,
    shape: tuple[int, ...],
    variant: str,
    accumulate_bytes: float | None = None,
) -> Op:
    """Return a GEMM of a linear layer, in the recipe's format where there is one."""
    recipe = shard.recipe
    if recipe is None:
        return gemm(name, shard, shape, variant, accumulate_bytes=accumulate_bytes)
    return gemm(
        name,
        shard,
        shape,
        variant,
        accumulate_bytes=accumulate_bytes,
        dtype=recipe.dtype,
        operand_bytes=recipe.copy_bytes,
    )


def _wgrad_ops(name: str, shard: Shard, shape: tuple[int, int, int], bias: bool) -> tuple[Op, ...]:
    """Return the weight's gradient, added to the main gradients, and the bias's.

    The GEMM adds it itself, or writes the compute format: then kernels add it, here or, to those of
    the same format, from the second micro-batch on (`plan.accumulation`). Under FSDP it is reduced
    (`plan.fsdp`).
    """
    m, n, tokens = shape
    ops = [linear_product(name, shard, shape, "wgrad", gemm_sum_bytes(shard))]
    ops.extend(accumulation_ops(name, shard, m * n))
    if bias and shard.kernels.fusion != "te":
        ops.append(
            elementwise_op(
                f"{name}_bias", "copy", shard.dtype, m * tokens, shard.element_bytes, 0.0
            )
        )
    return tuple(ops)


def _products(
    name: str,
    shard: Shard,
    shape: tuple[int, int],
    bias: bool,
    *,
    gathered: str = "",
    normed: bool = False,
) -> tuple[tuple[Op, ...], tuple[Op, ...], tuple[Op, ...]]:
    """Return forward, dgrad and wgrad of a linear layer of `shape` (inputs, outputs).

    `gathered` names the operand (`input` or `gradient`) whose parts the tensor group gathers; it is
    converted before. `normed`: a norm made the input.
    """
    inputs, outputs = shape
    tokens = shard.tokens
    normed = normed and shard.adapters is None  # an adapter reads the norm's output too
    x = cast_ops(name, shard, "input", inputs, gathered=gathered == "input", normed=normed)
    dy = cast_ops(f"{name}_dy", shard, "gradient", outputs, gathered=gathered == "gradient")
    weight = cast_ops(f"{name}_weight", shard, "weight", inputs * outputs)
    forward = linear_product(name, shard, (tokens, outputs, inputs), "forward")
    dgrad = linear_product(f"{name}_dgrad", shard, (tokens, inputs, outputs), "dgrad")
    return (
        (*x[0], *weight[0], forward),
        (*dy[0], *weight[1], dgrad),
        (
            *x[1],
            *dy[1],
            *_wgrad_ops(f"{name}_wgrad", shard, (outputs, inputs, tokens), bias),
        ),
    )


def _linear(
    name: str,
    shard: Shard,
    shape: tuple[int, int],
    saved_tokens: float,
    bias: bool,
    *,
    gathered: str = "",
    normed: bool = False,
) -> Module:
    """Return a linear layer of `shape` (inputs, outputs) on one rank, without its collectives.

    Its input is saved for `saved_tokens`; `gathered` and `normed` as in `_products`.
    """
    inputs, outputs = shape
    saved = saved_tokens * inputs * saved_width(shard)
    return Module(
        name,
        *_products(name, shard, shape, bias, gathered=gathered, normed=normed),
        parameters=inputs * outputs + (outputs if bias else 0),
        saved_bytes=saved,
        saved_input_bytes=saved,
        weight_gradient_bytes=weight_gradient_bytes(shard, inputs * outputs),
        weight_casts=weight_cast_ops(name, shard, inputs * outputs),
        quantized=inputs * outputs if shard.recipe else 0,
    )


def column_linear(
    name: str,
    shard: Shard,
    inputs: int,
    outputs: int,
    *,
    bias: bool,
    kept_bytes: float = 0.0,
    owns_weight: bool = True,
    normed: bool = False,
) -> Module:
    """Return a linear layer whose `outputs` (of this rank) are a part of all columns.

    Under sequence parallelism its input is gathered before the forward GEMM and, because only the
    split input is saved, again before wgrad; the input's gradient is reduce-scattered. Without it
    the input is whole on every rank and its gradient is all-reduced (Korthikanti et al. 2022,
    section 4.2). Saves its input and `kept_bytes` of its output that a later module needs.
    `normed`: a norm made its input.
    """
    tokens = shard.tokens
    whole = tokens * inputs * shard.element_bytes
    live = tokens * outputs * shard.element_bytes + whole
    gather: tuple[Comm, ...] = ()
    reduce: tuple[Comm, ...] = ()
    if shard.sequence_parallel:
        size = tokens * inputs * gathered_bytes(shard, "input")
        gather = (Comm("tp", "all_gather", size, f"{name}_input"),)
        reduce = (Comm("tp", "reduce_scatter", whole, f"{name}_dx"),)
        live += size + whole / shard.tensor  # the input gathered again, its gradient reduced
    elif shard.tensor > 1:
        reduce = (Comm("tp", "all_reduce", whole, f"{name}_dx"),)
    module = _linear(
        name,
        shard,
        (inputs, outputs),
        shard.split_tokens,
        bias,
        gathered="input" if shard.sequence_parallel else "",
        normed=normed,
    )
    module = replace(
        module,
        parameters=module.parameters if owns_weight else 0,
        saved_bytes=module.saved_bytes + kept_bytes,
        backward_bytes=(live,),
        pre_forward=(*amax_reduction(name, shard), *gather),
        pre_wgrad=gather,
        post_dgrad=reduce,
    )
    return adapt(module, shard, (inputs, outputs), kept_bytes=kept_bytes, column=True)


def row_linear(name: str, shard: Shard, inputs: int, outputs: int, *, bias: bool) -> Module:
    """Return a linear layer whose `inputs` (of this rank) are a part of all rows.

    Its output is a partial sum: reduce-scattered along the sequence under sequence parallelism
    (the output's gradient is gathered in the backward pass), else all-reduced. Saves its input.
    """
    tokens = shard.tokens
    whole = tokens * outputs * shard.element_bytes
    reduce: tuple[Comm, ...] = ()
    gather: tuple[Comm, ...] = ()
    if shard.sequence_parallel:
        reduce = (Comm("tp", "reduce_scatter", whole, f"{name}_output"),)
        size = tokens * outputs * gathered_bytes(shard, "gradient")
        gather = (Comm("tp", "all_gather", size, f"{name}_dy"),)
    elif shard.tensor > 1:
        reduce = (Comm("tp", "all_reduce", whole, f"{name}_output"),)
    module = replace(
        _linear(
            name,
            shard,
            (inputs, outputs),
            tokens,
            bias,
            gathered="gradient" if shard.sequence_parallel else "",
        ),
        post_forward=reduce,
        pre_backward=(*amax_reduction(f"{name}_dy", shard), *gather),
    )
    return adapt(module, shard, (inputs, outputs), kept_bytes=0.0, column=False)


def weight_gradient_bytes(shard: Shard, parameters: int) -> float:
    """Return what a weight's gradient takes beside the main gradient while it is computed.

    Autograd wants a gradient per weight. Where the GEMM adds to the main gradient itself,
    Transformer Engine hands over an uninitialised tensor; since 2.3 it keeps one per weight shape
    (`plan.ledger`). apex hands over none; elsewhere it is the GEMM's result.
    """
    kernels = shard.kernels
    if kernels.adds_in_products and (kernels.fusion != "te" or kernels.te_at_least(2, 3)):
        return 0.0
    return parameters * shard.element_bytes


def partly_replayed(module: Module, shard: Shard, inputs: int, kept: int, again: int) -> Module:
    """Return `module` with `kept` columns of its result kept by per-op recomputation.

    `again` columns are computed again, in a matrix product of `inputs` inner terms.
    """
    product: tuple[Op, ...] = ()
    if again and shard.adapters is not None:
        product = module.forward
    elif again:
        casts = (op for op in module.forward if op.kind != "gemm")
        product = (
            *casts,
            linear_product(module.name, shard, (shard.tokens, again, inputs), "forward"),
        )
    kept_bytes = shard.tokens * kept * shard.element_bytes
    return replace(module, replay=product, replay_saved_bytes=kept_bytes)


def apart(module: Module, shard: Shard, inputs: int, count: int) -> Module:
    """Return a column-parallel layer as `count` matrices, each of which gives its input a gradient.

    The gradients are added by one kernel where calls are fused (torch.compile), else two by two.
    Without sequence parallelism each is all-reduced before (flash-attn's `ColumnParallelLinear`),
    with it their sum is reduce-scattered (PyTorch's DTensor). The products themselves take about as
    long as one of all widths.
    """
    width = shard.element_bytes
    size = float(shard.tokens * inputs)
    fused = shard.kernels.fusion in ("compile", "te")
    reads = (count,) if fused else (2,) * (count - 1)
    name = f"{module.name}_dx_add"
    added = tuple(
        elementwise_op(name, "residual", shard.dtype, size, read * width, width) for read in reads
    )
    reduced = module.post_dgrad * (1 if shard.sequence_parallel else count)
    return replace(module, dgrad=(*module.dgrad, *added), post_dgrad=reduced)
