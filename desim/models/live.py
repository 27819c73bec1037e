"""Device memory that a module takes while its kernels run, beside what is saved.

Forward it is the largest result and what was gathered; backward the gradients of the result and of
the input, and what was gathered. A gathered result that a gradient takes the shape of is not
counted twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from desim.models.op import Comm, Module, Op


def forward_live_bytes(module: Module) -> tuple[float, ...]:
    """Return the blocks taken during the module's forward pass, in bytes."""
    if module.forward_bytes is not None:
        return module.forward_bytes
    return (_largest(module.forward) + _gathered(module.pre_forward),)


def backward_live_bytes(module: Module) -> tuple[float, ...]:
    """Return the blocks taken during its backward pass, without its weight's gradient, in bytes.

    The gradient of a result that is gathered over the tensor group has the size of the forward
    GEMM's result, which counts it.
    """
    if module.backward_bytes is not None:
        return module.backward_bytes
    beside = _gathered(comm for comm in module.pre_backward if comm.group != "tp")
    gradients = _largest(module.forward) + _largest(module.dgrad)
    return (gradients + beside + _gathered(module.pre_wgrad),)


def _largest(ops: tuple[Op, ...]) -> float:
    return max((op.write_bytes for op in ops), default=0.0)


def _gathered(comms: Iterable[Comm]) -> float:
    return sum(comm.size_bytes for comm in comms if comm.collective == "all_gather")
