"""Gradients as autograd keeps them: the first of a step stays, the later ones are added to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from desim.models.elementwise import elementwise_op
from desim.plan.passes import Hooks

if TYPE_CHECKING:
    from desim.plan.stages import Chunk
    from desim.plan.template import Emitter


class AddGradients(Hooks):
    """Adds each gradient of a module to the one of the micro-batches before.

    PyTorch's `AccumulateGrad` (torch/csrc/autograd/functions/accumulate_grad.h): the first gradient
    after `zero_grad(set_to_none=True)` becomes `.grad` as it is, every later one is added in place,
    a kernel of its own beside the matrix product that made it.
    """

    def __init__(self, chunk: Chunk, bytes_per_gradient: float) -> None:
        self._chunk = chunk
        self._bytes = bytes_per_gradient

    def after_backward(self, emit: Emitter, position: int, part: int) -> None:
        """Add the gradient that this module has made."""
        module = self._chunk[position][1].modules[part]
        if module.trained:
            name = f"{module.name}_accumulate"
            size, width = module.trained, self._bytes
            emit.kernel(elementwise_op(name, "copy", "fp32", size, 2 * width, width))
