"""Modules without a GEMM: norms, rotary positions, activations, residual and dropout."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from desim.models import passes
from desim.models.op import Module, Op, OpKind

if TYPE_CHECKING:
    from desim.models.passes import Pass
    from desim.models.shard import Shard
    from desim.spec.workload import Transformer

_MASK_BYTES = 1  # PyTorch keeps a dropout mask as one byte per element


def elementwise_op(
    name: str,
    kind: OpKind,
    dtype: str,
    elements: float,
    read_bytes: float,
    write_bytes: float,
    flops_per_element: float = 1.0,
) -> Op:
    """Return a kernel that streams `elements` with the given bytes per element."""
    return Op(
        name,
        kind,
        dtype,
        elements * flops_per_element,
        elements * read_bytes,
        elements * write_bytes,
        (int(elements),),
    )


def pass_ops(
    name: str, kind: OpKind, shard: Shard, elements: float, chain: tuple[Pass, ...]
) -> tuple[Op, ...]:
    """Return one op per pass of `chain` over a tensor of `elements`."""
    width = shard.element_bytes
    return tuple(
        elementwise_op(
            name + step.name,
            kind,
            shard.dtype,
            elements,
            step.read * width + step.read32 * 4,
            step.write * width + step.write32 * 4,
        )
        for step in chain
    )


def norm(
    name: str,
    model: Transformer,
    shard: Shard,
    *,
    width: int = 0,
    rows: float = 0.0,
    before_linear: bool = False,
) -> Module:
    """Return a norm, of the residual stream unless its `rows` and `width` are given.

    It saves its input; an eager RMSNorm saves it in fp32 and the normalised input instead, one that
    computes on a copy in fp32 that copy. Where
    it begins a branch of the residual stream it joins the gradients of branch and skip. Fused with
    the linear layer behind it (`before_linear`) it may write that layer's operand.
    """
    elements = rows * width if width else shard.split_tokens * model.hidden
    kernels = shard.kernels
    fusion: str = kernels.fusion if kernels.norm == "auto" else kernels.norm
    chain = passes.NORM[model.norm, fusion]
    dgrad = tuple(step for step in chain.dgrad if not (width and step.name == "_skip_add"))
    saved = shard.element_bytes
    if fusion == "fused_fp32":
        saved = 4.0
    elif (model.norm, fusion) == ("rms", "eager"):
        saved += 4.0
    forward = pass_ops(name, "norm", shard, elements, chain.forward)
    recipe = shard.recipe
    if before_linear and recipe is not None and recipe.norm_writes_quantized and not shard.adapters:
        forward = (*forward[:-1], replace(forward[-1], write_bytes=elements * recipe.copy_bytes))
    return Module(
        name,
        forward=forward,
        dgrad=pass_ops(name, "norm", shard, elements, dgrad),
        wgrad=pass_ops(name, "norm", shard, elements, chain.wgrad),
        parameters=(width or model.hidden) * (2 if model.norm == "layer" else 1),
        saved_bytes=elements * saved,
        saved_input_bytes=elements * shard.element_bytes,
        recompute=("norm",),
    )


def rotary(shard: Shard, heads: int, kv_heads: int, dim: int, extra: tuple[Op, ...] = ()) -> Module:
    """Return rotary positions of this rank's queries and keys; they save nothing.

    The fused kernels turn queries and keys together, the others one after the other. `extra` are
    kernels of the same traffic forward and backward that put the turned parts in their places.
    """
    fused = shard.kernels.rotary == "fused"
    chain = passes.ROTARY["te" if fused else shard.kernels.fusion]
    parts = {"rotary": heads + kv_heads}
    if len(chain.forward) > 1:
        parts = {"rotary_q": heads, "rotary_k": kv_heads}
    sizes = {name: float(shard.tokens * count * dim) for name, count in parts.items()}
    return Module(
        "rotary",
        forward=(
            *(
                op
                for n, s in sizes.items()
                for op in pass_ops(n, "rotary", shard, s, chain.forward)
            ),
            *extra,
        ),
        dgrad=(
            *(op for n, s in sizes.items() for op in pass_ops(n, "rotary", shard, s, chain.dgrad)),
            *(replace(op, name=f"{op.name}_dx") for op in extra),
        ),
    )


def activation(
    model: Transformer, shard: Shard, elements: float, name: str = "activation"
) -> Module:
    """Return the MLP's activation with `elements` of output; it saves its input.

    A gate doubles the input. What is not one kernel also saves what its second kernel needs: the
    output of the SiLU, or of the ReLU that is squared.
    """
    if model.gated:
        apart = shard.kernels.fusion == "eager" and "gate_up" in shard.kernels.apart
        chain = passes.GATED["apart" if apart else shard.kernels.fusion]
    elif model.activation == "relu2":
        chain = passes.RELU2[shard.kernels.fusion]
    else:
        chain = passes.GELU
    saved = (2 if model.gated else 1) + len(chain.forward) - 1
    return Module(
        name,
        forward=pass_ops(name, "activation", shard, elements, chain.forward),
        dgrad=pass_ops(name, "activation", shard, elements, chain.dgrad),
        saved_bytes=elements * saved * shard.element_bytes,
        saved_input_bytes=elements * (2 if model.gated else 1) * shard.element_bytes,
        recompute=("activation",),
    )


def residual(name: str, model: Transformer, shard: Shard) -> Module:
    """Return the dropout of a branch and its sum with the skip; it saves the dropout's mask.

    The gradients of branch and skip are joined where the branch begins, in `norm`.
    """
    elements = shard.split_tokens * model.hidden
    width = shard.element_bytes
    mask = _MASK_BYTES if model.dropout else 0
    if model.dropout and shard.kernels.fusion == "eager":
        forward = (
            *dropout_ops(f"{name}_dropout", shard, elements, backward=False),
            elementwise_op(name, "residual", shard.dtype, elements, 2 * width, width),
        )
    else:
        forward = (
            elementwise_op(name, "residual", shard.dtype, elements, 2 * width, width + mask),
        )
    dgrad: tuple[Op, ...] = ()
    if model.dropout:
        dgrad = dropout_ops(f"{name}_dropout", shard, elements, backward=True)
    return Module(name, forward=forward, dgrad=dgrad, saved_bytes=elements * mask)


def dropout_ops(name: str, shard: Shard, elements: float, backward: bool) -> tuple[Op, ...]:
    """Return dropout as a kernel of its own: forward writes the mask, backward reads it."""
    width = shard.element_bytes
    read = width + (_MASK_BYTES if backward else 0)
    write = width + (0 if backward else _MASK_BYTES)
    suffix = "_dx" if backward else ""
    return (elementwise_op(name + suffix, "dropout", shard.dtype, elements, read, write),)
