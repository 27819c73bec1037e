"""Experts in chunks of rows that travel while the experts work on others.

Of n chunks the first is sent before the experts begin and the last comes back after they end; the
all-to-alls of every other one run beside the matrix products of its neighbours (Hwang et al. 2023,
arXiv:2206.03382, Tutel, section 4.2). Weight gradients are computed at the end, for all rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from desim.models.live import backward_live_bytes, forward_live_bytes
from desim.models.op import Module, Step

if TYPE_CHECKING:
    from collections.abc import Sequence

    from desim.models.op import Comm, Op


def chunked_experts(
    whole: tuple[Module, ...], part: tuple[Module, ...], dispatch: Module, count: int
) -> Module:
    """Return the experts of `count` chunks as one module.

    `whole` are the modules from the sort to the way back for all rows, `part` those of one chunk
    and `dispatch` its way there. What a chunk needs beyond the first leaves out copies of weights.
    """
    back = part[-1]
    forward = [_forward(part, casts=number == 0) for number in range(count)]
    dgrad = [_dgrad(part, casts=number == 0) for number in range(count)]
    forward_steps = _steps(forward, dispatch.post_forward, back.post_forward)
    dgrad_steps = _steps(dgrad, back.pre_backward, dispatch.pre_backward)
    return Module(
        "experts",
        forward=tuple(op for ops in forward for op in ops),
        dgrad=tuple(op for ops in dgrad for op in ops),
        wgrad=tuple(op for module in reversed(whole) for op in module.wgrad),
        parameters=sum(module.parameters for module in whole),
        saved_bytes=sum(module.saved_bytes for module in whole),
        saved_input_bytes=sum(module.saved_input_bytes for module in whole),
        forward_bytes=max((forward_live_bytes(module) for module in whole), key=sum),
        backward_bytes=max((backward_live_bytes(module) for module in whole), key=sum),
        weight_gradient_bytes=sum(module.weight_gradient_bytes for module in whole),
        expert=True,
        post_forward=back.post_forward,
        pre_backward=back.pre_backward,
        forward_steps=forward_steps,
        dgrad_steps=dgrad_steps,
        weight_casts=tuple(op for module in whole for op in module.weight_casts),
        quantized=sum(module.quantized for module in whole),
        tensors=sum(module.tensors for module in whole if module.parameters),
    )


def _steps(
    ops: Sequence[tuple[Op, ...]], there: tuple[Comm, ...], back: tuple[Comm, ...]
) -> tuple[Step, ...]:
    """Beside each chunk the one before it goes back and the one after it comes."""
    last = len(ops) - 1
    return tuple(
        Step(chunk, (back if number else ()) + (there if number < last else ()))
        for number, chunk in enumerate(ops)
    )


def _forward(modules: tuple[Module, ...], *, casts: bool) -> tuple[Op, ...]:
    ops = (op for module in modules for op in _kept(module, module.forward, casts=casts))
    return tuple(ops)


def _dgrad(modules: tuple[Module, ...], *, casts: bool) -> tuple[Op, ...]:
    ops = (op for module in reversed(modules) for op in _kept(module, module.dgrad, casts=casts))
    return tuple(ops)


def _kept(module: Module, ops: tuple[Op, ...], *, casts: bool) -> tuple[Op, ...]:
    """The kernels of a chunk; conversions of weights serve all chunks."""
    if casts:
        return ops
    return tuple(op for op in ops if not op.name.startswith(f"{module.name}_weight"))
