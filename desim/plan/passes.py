"""Forward and backward passes of a model chunk as tasks, with their tensor-parallel overlap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from desim.models.op import Comm, Layer, Module, Op, Step
    from desim.plan.stages import Chunk
    from desim.plan.template import Emitter, Mark

Direction = Literal["forward", "backward"]


class Hooks:
    """What a data-parallel policy adds to a pass; a policy overrides what it needs.

    `position` is the layer's place in the chunk, `part` the module's place in the layer.
    """

    def before_layer(self, emit: Emitter, direction: Direction, position: int) -> None:
        """Called before the tasks of a layer are issued."""

    def after_layer(self, emit: Emitter, direction: Direction, position: int) -> None:
        """Called after the tasks of a layer are issued."""

    def before_forward(self, emit: Emitter, position: int, part: int) -> None:
        """Called before the forward tasks of a module are issued."""

    def after_backward(self, emit: Emitter, position: int, part: int) -> None:
        """Called after the backward tasks of a module are issued."""


@dataclass(frozen=True, slots=True)
class PassPolicy:
    """The policies that shape one pass."""

    tensor: Literal["none", "megatron"]
    recompute: Literal["none", "selective", "full"]


def forward_pass(emit: Emitter, chunk: Chunk, policy: PassPolicy, hooks: Sequence[Hooks]) -> None:
    """Issue the forward pass of `chunk`."""
    for position in range(len(chunk)):
        forward_layer(emit, chunk, position, policy, hooks)


def backward_pass(emit: Emitter, chunk: Chunk, policy: PassPolicy, hooks: Sequence[Hooks]) -> None:
    """Issue the backward pass of `chunk`, with recomputation where the policy asks for it."""
    for position in reversed(range(len(chunk))):
        backward_layer(emit, chunk, position, policy, hooks)


def forward_layer(
    emit: Emitter, chunk: Chunk, position: int, policy: PassPolicy, hooks: Sequence[Hooks]
) -> None:
    """Issue the forward pass of the layer at `position`."""
    emit.phase = "forward"
    emit.layer, layer = chunk[position]
    for hook in hooks:
        hook.before_layer(emit, "forward", position)
    full = _recomputed(layer, policy)
    if full:
        emit.memory("activations", layer.input_bytes)
    for part, module in enumerate(layer.modules):
        for hook in hooks:
            hook.before_forward(emit, position, part)
        keep = not full and not (policy.recompute == "selective" and module.recomputable)
        _forward(emit, module, keep=keep)
    for hook in hooks:
        hook.after_layer(emit, "forward", position)


def backward_layer(
    emit: Emitter, chunk: Chunk, position: int, policy: PassPolicy, hooks: Sequence[Hooks]
) -> None:
    """Issue the backward pass of the layer at `position`."""
    emit.phase = "backward"
    emit.layer, layer = chunk[position]
    for hook in hooks:
        hook.before_layer(emit, "backward", position)
    full = _recomputed(layer, policy)
    if full:
        emit.phase = "recompute"
        for module in layer.modules:
            _forward(emit, module, keep=True)
    selective = policy.recompute == "selective" and not full
    for part in reversed(range(len(layer.modules))):
        module = layer.modules[part]
        if selective:
            emit.phase = "recompute"
            for again in _recomputed_before(layer, part):
                _forward(emit, again, keep=True)
        emit.phase = "backward"
        _backward(emit, module, policy)
        for hook in hooks:
            hook.after_backward(emit, position, part)
    if full:
        emit.memory("activations", -layer.input_bytes)
    for hook in hooks:
        hook.after_layer(emit, "backward", position)


def _recomputed_before(layer: Layer, part: int) -> tuple[Module, ...]:
    """Modules that selective recompute runs again before the backward pass of module `part`.

    A run of recomputable modules (core attention) is recomputed as a whole before the backward pass
    of its last one, which needs what the others compute.
    """
    modules = layer.modules
    last = part + 1 == len(modules) or not modules[part + 1].recomputable
    first = part
    while last and first >= 0 and modules[first].recomputable:
        first -= 1
    return modules[first + 1 : part + 1]


def _recomputed(layer: Layer, policy: PassPolicy) -> bool:
    return policy.recompute == "full" and layer.kind == "block"


def exposed(emit: Emitter, comms: Iterable[Comm]) -> None:
    """Issue collectives that wait for compute so far and that compute then waits for."""
    for comm in comms:
        emit.wait(emit.collective(comm, lane=_lane(comm)))


def _beside(emit: Emitter, comms: Iterable[Comm]) -> list[Mark]:
    """Issue collectives that compute may run beside."""
    return [emit.collective(comm, beside=True, lane=_lane(comm)) for comm in comms]


def _lane(comm: Comm) -> str:
    return "ep" if comm.group == "world" else comm.group


def _run(emit: Emitter, ops: tuple[Op, ...], steps: tuple[Step, ...]) -> None:
    """Issue kernels, step by step where they are cut into steps with collectives beside them."""
    if not steps:
        emit.kernels(ops)
    for step in steps:
        marks = _beside(emit, step.comms)
        emit.kernels(step.ops)
        emit.wait(*marks)


def _transient(module: Module) -> float:
    """Device memory that a module's largest result takes while it runs (saved or handed on)."""
    return max((op.write_bytes for op in module.forward), default=0.0)


def _forward(emit: Emitter, module: Module, *, keep: bool) -> None:
    exposed(emit, module.pre_forward)
    transient = _transient(module)
    emit.memory("workspace", transient)
    _run(emit, module.forward, module.forward_steps)
    if keep:
        emit.memory("activations", module.saved_bytes)
    emit.memory("workspace", -transient)
    exposed(emit, module.post_forward)


def _backward(emit: Emitter, module: Module, policy: PassPolicy) -> None:
    exposed(emit, module.pre_backward)
    transient = _transient(module)
    emit.memory("workspace", transient)
    if policy.tensor == "megatron":
        gathered = _beside(emit, module.pre_wgrad)
        _run(emit, module.dgrad, module.dgrad_steps)
        reduced = _beside(emit, module.post_dgrad)
        emit.wait(*gathered)
        emit.kernels(module.wgrad)
        emit.wait(*reduced)
    else:
        _run(emit, module.dgrad, module.dgrad_steps)
        exposed(emit, module.post_dgrad)
        exposed(emit, module.pre_wgrad)
        emit.kernels(module.wgrad)
    emit.memory("workspace", -transient)
    emit.memory("activations", -module.saved_bytes)
