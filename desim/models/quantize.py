"""Kernels that convert the operands of a linear layer, and what conversion saves elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from desim.models.elementwise import elementwise_op
from desim.models.op import Comm

if TYPE_CHECKING:
    from collections.abc import Iterable

    from desim.models.op import Op
    from desim.models.recipe import Operand, Stream
    from desim.models.shard import Shard


def cast_ops(
    name: str,
    shard: Shard,
    operand: Operand,
    size: int,
    *,
    gathered: bool = False,
    normed: bool = False,
) -> tuple[tuple[Op, ...], tuple[Op, ...]]:
    """Return what converts an operand for the first and the second of the GEMMs that read it.

    `size` are the elements of a token, of a weight all of them. A `gathered` operand is converted
    in this rank's part where it travels converted, else whole; what its second use needs is made of
    the whole. A compute format narrower
    than activations converts input and gradient once. Weights that Transformer Engine converts are
    in `weight_cast_ops`.
    """
    tokens = 1 if operand == "weight" else shard.tokens
    recipe = shard.recipe
    part = shard.split_tokens if gathered and (recipe is None or recipe.gathers) else tokens
    if recipe is None:
        if operand == "weight" or shard.operand_bytes == shard.element_bytes:
            return (), ()
        width = (shard.element_bytes, shard.operand_bytes)
        return (elementwise_op(f"{name}_cast", "cast", shard.dtype, part * size, *width),), ()
    if operand == "weight":
        if recipe.engine:
            return (), ()
        if shard.precision.low_precision_parameters:
            casts = recipe.gathered_weight_casts(shard.element_bytes)
            return (), _streams(name, shard, size, casts.second)
    casts = recipe.casts(operand, shard.element_bytes, gathered=gathered, normed=normed)
    if shard.adapters is not None and operand != "weight":
        casts = casts.once(recipe.copy_bytes)
    first = _streams(name, shard, part * size, casts.first)
    return first, _streams(name, shard, tokens * size, casts.second)


def weight_cast_ops(name: str, shard: Shard, size: int) -> tuple[Op, ...]:
    """Return what makes the quantised copies of a new weight, once for all micro-batches."""
    recipe = shard.recipe
    if recipe is None or not recipe.engine:
        return ()
    if shard.precision.low_precision_parameters:
        if shard.adapters is not None:
            return ()  # neither gathered nor changed
        casts = recipe.gathered_weight_casts(shard.element_bytes)
    else:
        casts = recipe.casts("weight", shard.element_bytes)
    return _streams(f"{name}_weight", shard, size, casts.first)


def _streams(name: str, shard: Shard, elements: float, streams: Iterable[Stream]) -> tuple[Op, ...]:
    return tuple(
        elementwise_op(
            f"{name}_{step.name}",
            "cast",
            shard.dtype,
            elements,
            step.read_bytes,
            step.write_bytes,
        )
        for step in streams
    )


def saved_width(shard: Shard) -> float:
    """Bytes per element of a linear layer's input that is kept for its weight's gradient."""
    recipe = shard.recipe
    if recipe is None:
        return shard.operand_bytes
    return recipe.copy_bytes if recipe.engine else shard.element_bytes


def gathered_bytes(shard: Shard, operand: Operand) -> float:
    """Bytes per element of an operand whose parts the tensor group gathers."""
    recipe = shard.recipe
    if recipe is None or not recipe.gathers:
        return shard.element_bytes
    return recipe.copy_bytes if operand == "input" else recipe.gathered_gradient_bytes


def amax_reduction(name: str, shard: Shard) -> tuple[Comm, ...]:
    """Return the all-reduce of an amax that the parts of a gathered operand have in common."""
    recipe = shard.recipe
    if recipe is None or not recipe.reduces_amax or not shard.sequence_parallel:
        return ()
    return (Comm("tp", "all_reduce", 4.0, f"{name}_amax"),)
