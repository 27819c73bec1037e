"""When weight gradients are computed: as a backward pass comes to them, or apart from it.

As a pass of their own (Qi et al. 2024, arXiv:2401.10241, section 1, figure 1), the backward pass
keeps the input and the output's gradient of every matrix until that pass has run.
Gradients of norms, biases beside them and the embedding stay in the backward pass, where they are
made of what it reads anyway, as in the authors' code, which postpones those of linear layers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from desim.models.width import stored_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from desim.models.op import Comm, Module
    from desim.plan.passes import Hooks
    from desim.plan.stages import Chunk
    from desim.plan.template import Emitter, Mark

#: Memory owner of what backward passes leave for weight gradients, beside saved activations.
OUTPUT_GRADIENTS = "output gradients"


def postponed(module: Module) -> bool:
    """Whether a module's weight gradient is a matrix product, which can wait."""
    return any(op.variant == "wgrad" for op in module.wgrad)


def input_bytes(module: Module) -> float:
    """Saved bytes of a module that its weight gradient reads."""
    return module.saved_input_bytes or module.saved_bytes


def output_gradient_bytes(module: Module) -> float:
    """Bytes of the output's gradient, which the weight gradient reads: m x k of its product."""
    total = 0.0
    for op in module.wgrad:
        if op.variant == "wgrad":
            m, _, k = op.shape[:3]
            batch = op.shape[3] if len(op.shape) > 3 else 1
            total += batch * m * k * stored_bytes(op.dtype)
    return total


def weight_pass(emit: Emitter, chunk: Chunk, hooks: Sequence[Hooks], *, overlap: bool) -> None:
    """Issue the weight gradients of `chunk` in the order of its backward pass.

    With `overlap` the input that a module has to gather is gathered beside the module before it.
    """
    emit.phase = "weight gradient"
    places = [
        (position, part)
        for position in reversed(range(len(chunk)))
        for part in reversed(range(len(chunk[position][1].modules)))
    ]
    weight_gradients(emit, chunk, places, hooks, overlap=overlap)


def weight_gradients(
    emit: Emitter,
    chunk: Chunk,
    places: Sequence[tuple[int, int]],
    hooks: Sequence[Hooks],
    *,
    overlap: bool,
) -> None:
    """Issue the weight gradients of the modules at `places` (layer, module), with their hooks."""
    modules = [chunk[position][1].modules[part] for position, part in places]
    ahead = _gather(emit, _next_gather(modules, 0), overlap)
    for number, ((position, part), module) in enumerate(zip(places, modules, strict=True)):
        emit.layer = chunk[position][0]
        if postponed(module):
            if module.pre_wgrad:
                emit.wait(*ahead)
                ahead = _gather(emit, _next_gather(modules, number + 1), overlap)
            emit.memory("workspace", module.weight_gradient_bytes)
            emit.kernels(module.wgrad)
            emit.memory("workspace", -module.weight_gradient_bytes)
            emit.memory("activations", -input_bytes(module))
            emit.memory(OUTPUT_GRADIENTS, -output_gradient_bytes(module))
        for hook in hooks:
            hook.after_backward(emit, position, part)


class WeightGradients:
    """Weight gradients that a backward pass computes as it comes to them.

    `apart`: those that are matrix products are not. `beside`: they run beside exchanges.
    """

    apart = False
    beside = False

    def __init__(self, chunk: Chunk, hooks: Sequence[Hooks], *, overlap: bool) -> None:
        self._chunk = chunk
        self._hooks = hooks
        self._overlap = overlap

    def after(self, emit: Emitter, position: int, part: int) -> None:
        """Called after the backward kernels of a module: do what hooks do, or put it off."""
        for hook in self._hooks:
            hook.after_backward(emit, position, part)

    def issue(self, emit: Emitter) -> None:
        """Issue what was put off."""


class OwnPass(WeightGradients):
    """Weight gradients that are left to `weight_pass`."""

    apart = True

    def after(self, emit: Emitter, position: int, part: int) -> None:
        """Leave it to the pass."""


class Delayed(WeightGradients):
    """Weight gradients of a backward pass that wait until there is something to run beside.

    Megatron-LM's `--delay-wgrad-compute`: each half of a block is left with the gradient of its
    input, which is sent on its way, and then its weight gradients are computed.
    """

    apart = True
    beside = True

    def __init__(self, chunk: Chunk, hooks: Sequence[Hooks], *, overlap: bool) -> None:
        super().__init__(chunk, hooks, overlap=overlap)
        self._places: list[tuple[int, int]] = []

    def after(self, emit: Emitter, position: int, part: int) -> None:
        """Put off a module's weight gradient, and what its hooks do after it."""
        self._places.append((position, part))

    def issue(self, emit: Emitter) -> None:
        """Issue what was put off."""
        layer, places = emit.layer, self._places
        self._places = []
        weight_gradients(emit, self._chunk, places, self._hooks, overlap=self._overlap)
        emit.layer = layer


WEIGHT_GRADIENTS: dict[str, type[WeightGradients]] = {
    "at_once": WeightGradients,
    "own_pass": OwnPass,
    "delayed": Delayed,
}


def _next_gather(modules: Sequence[Module], first: int) -> tuple[Comm, ...]:
    """Collectives of the next module that has to gather its input."""
    wanted = (module.pre_wgrad for module in modules[first:] if postponed(module))
    return next((comms for comms in wanted if comms), ())


def _gather(emit: Emitter, comms: Sequence[Comm], overlap: bool) -> list[Mark]:
    """Issue the gather of a saved input; without `overlap` compute waits for it at once."""
    marks = [emit.collective(comm, beside=overlap) for comm in comms]
    if not overlap:
        emit.wait(*marks)
    return marks
