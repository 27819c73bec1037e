"""Low-rank adapters beside frozen layers (LoRA: Hu et al. 2021, arXiv:2106.09685).

A frozen layer computes its output and its input's gradient, no gradient of its weight; it keeps no
input for one. An adapter adds `x A B` with A inputs x rank and B rank x outputs. Under tensor
parallelism the factor on the side that is cut is cut with it and the other one is whole on every
rank, so that only tensors of tokens x rank are communicated in addition.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from desim.models.elementwise import elementwise_op
from desim.models.gemm import gemm
from desim.models.op import Comm, Layer

if TYPE_CHECKING:
    from desim.models.op import Module, Op
    from desim.models.shard import Shard

#: module -> the target that names it, where they differ
_TARGET = {"gate_up": "up"}


def freeze_layers(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """Return layers whose norms, tables and head are not trained; equal layers stay one object."""
    frozen = {
        id(layer): replace(layer, modules=tuple(_frozen(module) for module in layer.modules))
        for layer in layers
    }
    return tuple(frozen[id(layer)] for layer in layers)


def _frozen(module: Module) -> Module:
    """Modules that `adapt` has seen keep what they train."""
    if module.frozen:
        return module
    gather = module.pre_backward if module.dgrad else ()
    return replace(
        module,
        wgrad=(),
        pre_wgrad=(),
        pre_backward=gather,
        weight_gradient_bytes=0.0,
        frozen=module.parameters,
    )


def adapt(
    module: Module, shard: Shard, shape: tuple[int, int], *, kept_bytes: float, column: bool
) -> Module:
    """Return a linear layer of `shape` (inputs, outputs on this rank) frozen, with its adapter.

    Without adapters in the workload the module is returned as it is. `kept_bytes` of its output
    are saved for a later module; `column`: its outputs are cut over the tensor group, else its
    inputs.
    """
    lora = shard.adapters
    if lora is None:
        return module
    frozen = replace(
        module,
        wgrad=(),
        pre_wgrad=(),
        saved_bytes=kept_bytes,
        saved_input_bytes=0.0,
        weight_gradient_bytes=0.0,
        frozen=module.parameters,
    )
    if _TARGET.get(module.name, module.name) not in lora.targets:
        return frozen
    sides = _column_sides if column else _row_sides
    return _adapted(frozen, shard, shape, lora.rank, sides(module, shard, shape, lora.rank))


@dataclass(frozen=True, slots=True)
class _Sides:
    """What differs between adapters of layers cut by columns and by rows.

    `tokens` are those that B works on (A works on all of the tensor group's), `input_bytes` what is
    kept of the input; the rest are the collectives that the adapter adds or waits for.
    """

    tokens: int
    input_bytes: float
    post_forward: tuple[Comm, ...] = ()
    pre_backward: tuple[Comm, ...] = ()
    pre_wgrad: tuple[Comm, ...] = ()
    post_dgrad: tuple[Comm, ...] = ()


def _column_sides(module: Module, shard: Shard, shape: tuple[int, int], rank: int) -> _Sides:
    """A is whole on every rank: the sum of `dy B` over the group is its output's gradient."""
    narrow = shard.tokens * rank * shard.element_bytes
    name = f"{module.name}_lora_a_dy"
    return _Sides(
        tokens=shard.tokens,
        input_bytes=shard.split_tokens * shape[0] * shard.element_bytes,
        pre_wgrad=module.pre_wgrad,
        post_dgrad=(Comm("tp", "all_reduce", narrow, name),) if shard.tensor > 1 else (),
    )


def _row_sides(module: Module, shard: Shard, shape: tuple[int, int], rank: int) -> _Sides:
    """B is whole on every rank and works on its tokens: `x A` is summed over the group."""
    narrow = shard.tokens * rank * shard.element_bytes
    name = f"{module.name}_lora_a"
    reduce: tuple[Comm, ...] = ()
    gather: tuple[Comm, ...] = ()
    if shard.sequence_parallel:
        reduce = (Comm("tp", "reduce_scatter", narrow, name),)
        gather = (Comm("tp", "all_gather", narrow, f"{name}_dy"),)
    elif shard.tensor > 1:
        reduce = (Comm("tp", "all_reduce", narrow, name),)
    return _Sides(
        tokens=int(shard.split_tokens),
        input_bytes=shard.tokens * shape[0] * shard.element_bytes,
        post_forward=reduce,
        pre_backward=gather,
    )


def _adapted(
    module: Module, shard: Shard, shape: tuple[int, int], rank: int, sides: _Sides
) -> Module:
    """Return a frozen layer with an adapter's kernels, parameters, memory and collectives."""
    (inputs, outputs), tokens, name = shape, shard.tokens, f"{module.name}_lora"
    narrow = sides.tokens * rank * shard.element_bytes
    return replace(
        module,
        forward=(
            *module.forward,
            gemm(f"{name}_a", shard, (tokens, rank, inputs)),
            gemm(f"{name}_b", shard, (sides.tokens, outputs, rank)),
            _add(name, shard, sides.tokens * outputs),
        ),
        dgrad=(*module.dgrad, *_dgrad(name, shard, shape, rank, sides.tokens)),
        wgrad=_wgrad(name, shard, shape, rank, sides.tokens),
        parameters=module.parameters + rank * (inputs + outputs),
        saved_bytes=module.saved_bytes + sides.input_bytes + narrow,
        saved_input_bytes=sides.input_bytes,
        post_forward=(*sides.post_forward, *module.post_forward),
        pre_backward=(*module.pre_backward, *sides.pre_backward),
        pre_wgrad=sides.pre_wgrad,
        post_dgrad=(*sides.post_dgrad, *module.post_dgrad),
    )


def _dgrad(
    name: str, shard: Shard, shape: tuple[int, int], rank: int, tokens: int
) -> tuple[Op, ...]:
    """`dy B` over `tokens`, its product with A over all of them, added to the input's gradient."""
    inputs, outputs = shape
    return (
        gemm(f"{name}_b_dgrad", shard, (tokens, rank, outputs), "dgrad"),
        gemm(f"{name}_a_dgrad", shard, (shard.tokens, inputs, rank), "dgrad"),
        _add(f"{name}_dx", shard, shard.tokens * inputs),
    )


def _wgrad(
    name: str, shard: Shard, shape: tuple[int, int], rank: int, tokens: int
) -> tuple[Op, ...]:
    """Gradients of B over `tokens` and of A over all of them, added to the main gradients."""
    inputs, outputs = shape
    width = shard.gradient_bytes
    of_b = (outputs, rank, tokens)
    of_a = (rank, inputs, shard.tokens)
    return (
        gemm(f"{name}_b_wgrad", shard, of_b, "wgrad", accumulate_bytes=width),
        gemm(f"{name}_a_wgrad", shard, of_a, "wgrad", accumulate_bytes=width),
    )


def _add(name: str, shard: Shard, elements: float) -> Op:
    width = shard.element_bytes
    return elementwise_op(f"{name}_add", "residual", shard.dtype, elements, 2 * width, width)
