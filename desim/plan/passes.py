"""Forward and backward passes of a model chunk as tasks, with their tensor-parallel overlap."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from desim.models.live import backward_live_bytes, forward_live_bytes
from desim.plan.recompute import (
    Keeping,
    Recompute,
    keeping,
    recomputed_positions,
    restored_positions,
)
from desim.plan.weight_pass import (
    OUTPUT_GRADIENTS,
    WEIGHT_GRADIENTS,
    input_bytes,
    output_gradient_bytes,
    postponed,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from desim.models.op import Comm, Layer, Module, Op, Step
    from desim.plan.stages import Chunk
    from desim.plan.template import Emitter, Mark
    from desim.plan.weight_pass import WeightGradients

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
    """The policies that shape one pass.

    `beside`: tensor-parallel collectives of the backward pass run beside what does not need them.
    `sharded`: gradients of weights belong to their sharding unit and take no memory of their own.
    `weights`: gradients of weight matrices are computed with those of inputs, left to a pass of
    their own, or computed beside the exchange that follows.
    """

    beside: bool = True
    recompute: Recompute = Recompute()
    sharded: bool = False
    weights: Literal["at_once", "own_pass", "delayed"] = "at_once"


def forward_pass(emit: Emitter, chunk: Chunk, policy: PassPolicy, hooks: Sequence[Hooks]) -> None:
    """Issue the forward pass of `chunk`."""
    for position in range(len(chunk)):
        forward_layer(emit, chunk, position, policy, hooks)


def backward_pass(emit: Emitter, chunk: Chunk, policy: PassPolicy, hooks: Sequence[Hooks]) -> None:
    """Issue the backward pass of `chunk`, with recomputation where the policy asks for it."""
    weights = WEIGHT_GRADIENTS[policy.weights](chunk, hooks, overlap=policy.beside)
    for position in reversed(range(len(chunk))):
        backward_layer(emit, chunk, position, policy, hooks, weights)
    weights.issue(emit)


def forward_layer(
    emit: Emitter, chunk: Chunk, position: int, policy: PassPolicy, hooks: Sequence[Hooks]
) -> None:
    """Issue the forward pass of the layer at `position`."""
    emit.phase = "forward"
    emit.layer, layer = chunk[position]
    for hook in hooks:
        hook.before_layer(emit, "forward", position)
    kept = _keeping(chunk, position, policy).kept_bytes
    half = _second_half(layer)
    hidden: dict[int, list[Mark]] = {}
    for part, module in enumerate(layer.modules):
        if part == half:
            emit.seam()
        for hook in hooks:
            hook.before_forward(emit, position, part)
        _await(emit, hidden.pop(part, []))
        marks = _forward(emit, module, kept[part])
        hidden.setdefault(part + module.beside + 1, []).extend(marks)
    for hook in hooks:
        hook.after_layer(emit, "forward", position)
    if half is not None:
        emit.seam()


def backward_layer(
    emit: Emitter,
    chunk: Chunk,
    position: int,
    policy: PassPolicy,
    hooks: Sequence[Hooks],
    weights: WeightGradients,
) -> None:
    """Issue the backward pass of the layer at `position`, but for `weights` that are apart.

    The gradient of the residual stream is there all the while.
    """
    emit.phase = "backward"
    emit.layer, layer = chunk[position]
    for hook in hooks:
        hook.before_layer(emit, "backward", position)
    keep = _keeping(chunk, position, policy)
    half = _second_half(layer)
    if half is not None:
        _turn(emit, weights)
    stream = layer.input_bytes if layer.kind == "block" else 0.0
    emit.memory("workspace", stream)
    hidden: dict[int, list[Mark]] = {}
    for part in reversed(range(len(layer.modules))):
        emit.phase = "recompute"
        _recompute(emit, layer, keep, part, policy)
        emit.phase = "backward"
        for first in _hiding(layer, part):
            hidden[first] = _beside(emit, layer.modules[first].pre_backward)
            weights.issue(emit)
        _backward(emit, layer.modules[part], policy, hidden.pop(part, None), weights)
        weights.after(emit, position, part)
        if part == half:
            _turn(emit, weights)
    emit.memory("workspace", -stream)
    for hook in hooks:
        hook.after_layer(emit, "backward", position)


def _hiding(layer: Layer, part: int) -> list[int]:
    """Modules whose `pre_backward` runs beside the backward pass of the one at `part` and after."""
    modules = layer.modules[:part]
    return [i for i, module in enumerate(modules) if module.beside and i + module.beside == part]


def _recompute(emit: Emitter, layer: Layer, keep: Keeping, part: int, policy: PassPolicy) -> None:
    """Run again what the backward pass of the module at `part` needs."""
    hidden: dict[int, list[Mark]] = {}
    for again in keep.again.get(part, ()):
        module = layer.modules[again]
        _await(emit, hidden.pop(again, []))
        if keep.stop is not None and again >= keep.stop:
            emit.memory("activations", keep.restored_bytes[again])
        else:
            marks = _again(emit, module, keep.restored_bytes[again], policy)
            hidden.setdefault(again + module.beside + 1, []).extend(marks)
    for marks in hidden.values():
        emit.wait(*marks)


def _keeping(chunk: Chunk, position: int, policy: PassPolicy) -> Keeping:
    layer = chunk[position][1]
    if policy.recompute.kind != "none":
        layers = [held for _, held in chunk]
        if position in recomputed_positions(layers, policy.recompute):
            found = keeping(layer, policy.recompute)
            done = position in restored_positions(layers, policy.recompute)
            return replace(found, again={}) if done else found
    return keeping(layer, Recompute())


def restore_pass(emit: Emitter, chunk: Chunk, policy: PassPolicy) -> None:
    """Run again what the blocks of `chunk` need that the policy's recomputation restores ahead.

    It needs nothing of the gradient, so that it may run before that arrives (Merak: Lai et al.
    2022, arXiv:2206.04959).
    """
    emit.phase = "recompute"
    positions = restored_positions([layer for _, layer in chunk], policy.recompute)
    policy = replace(policy, recompute=replace(policy.recompute, restored=0))
    for position in sorted(positions, reverse=True):
        emit.layer, layer = chunk[position]
        keep = _keeping(chunk, position, policy)
        for part in reversed(range(len(layer.modules))):
            _recompute(emit, layer, keep, part, policy)


def _again(emit: Emitter, module: Module, restored_bytes: float, policy: PassPolicy) -> list[Mark]:
    """Run a module's forward pass again.

    Per-op recomputation runs a part of the kernels and keeps what was reduced.
    """
    if policy.recompute.kind == "per_op":
        if module.replay is not None:
            module = replace(module, forward=module.replay, forward_steps=module.replay_steps)
        if not module.forward:
            emit.memory("activations", restored_bytes)
            return []
        reduced = ("reduce_scatter", "all_reduce")
        post = tuple(comm for comm in module.post_forward if comm.collective not in reduced)
        module = replace(module, post_forward=post)
    return _forward(emit, module, restored_bytes)


def exposed(emit: Emitter, comms: Sequence[Comm], weights: WeightGradients | None = None) -> None:
    """Issue collectives, one after the other, that compute then waits for.

    Weight gradients that were put off are computed beside an exchange.
    """
    if not comms:
        return
    marks: list[Mark] = []
    exchanged = any(_is_exchange(comm) for comm in comms)
    beside = exchanged and weights is not None and weights.beside
    for comm in comms:
        after = (*emit.pending(), *marks)
        marks.append(emit.collective(comm, *after, beside=beside, lane=_lane(comm)))
    if exchanged and weights is not None:
        weights.issue(emit)
    emit.wait(*marks)
    if exchanged:
        emit.seam()


def _turn(emit: Emitter, weights: WeightGradients) -> None:
    """Let another pass go on once what was put off is computed."""
    weights.issue(emit)
    emit.seam()


def _await(emit: Emitter, marks: Sequence[Mark]) -> None:
    """Make compute wait for an exchange that other modules ran beside."""
    if marks:
        emit.seam()
    emit.wait(*marks)


def _is_exchange(comm: Comm) -> bool:
    """Whether rows travel to experts or back."""
    return (comm.group, comm.collective) == ("ep", "all_to_all")


def _second_half(layer: Layer) -> int | None:
    """Module with which the MLP begins in a block whose passes wait for no exchange."""
    modules = layer.modules
    comms = (comm for module in modules for comm in (*module.post_forward, *module.pre_backward))
    if layer.kind != "block" or any(_is_exchange(comm) for comm in comms):
        return None
    return next((part for part, module in enumerate(modules) if module.name == "norm2"), None)


def _beside(emit: Emitter, comms: Iterable[Comm]) -> list[Mark]:
    """Issue collectives, one after the other, that compute may run beside."""
    marks: list[Mark] = []
    for comm in comms:
        after = (emit.now(), *marks[-1:])
        marks.append(emit.collective(comm, *after, beside=True, lane=_lane(comm)))
    return marks


#: Groups whose collectives share the lane of others.
_LANES = {"world": "ep", "etp": "tp", "cp_inside": "cp", "cp_across": "cp"}


def _lane(comm: Comm) -> str:
    return _LANES.get(comm.group, comm.group)


def _run(emit: Emitter, ops: tuple[Op, ...], steps: tuple[Step, ...]) -> None:
    """Issue kernels, step by step where they are cut into steps with collectives beside them."""
    if not steps:
        emit.kernels(ops)
    for step in steps:
        marks = _beside(emit, step.comms)
        emit.kernels(step.ops)
        emit.wait(*marks)


def _take(emit: Emitter, blocks: Iterable[float]) -> None:
    for num_bytes in blocks:
        emit.memory("workspace", num_bytes)


def _give_back(emit: Emitter, blocks: Iterable[float]) -> None:
    for num_bytes in blocks:
        emit.memory("workspace", -num_bytes)


def _forward(emit: Emitter, module: Module, kept_bytes: float) -> list[Mark]:
    """Issue a module's forward pass; return what compute waits for after the modules beside it."""
    exposed(emit, module.pre_forward)
    live = forward_live_bytes(module)
    _take(emit, live)
    _run(emit, module.forward, module.forward_steps)
    emit.memory("activations", kept_bytes)
    _give_back(emit, live)
    if module.beside:
        return _beside(emit, module.post_forward)
    exposed(emit, module.post_forward)
    if module.read_back:
        emit.host_wait(*emit.pending())
    return []


def _backward(
    emit: Emitter,
    module: Module,
    policy: PassPolicy,
    hidden: list[Mark] | None,
    weights: WeightGradients,
) -> None:
    """Issue a module's backward pass; `hidden` collectives before it were issued already."""
    if hidden is None:
        exposed(emit, module.pre_backward, weights)
    else:
        _await(emit, hidden)
    first, *others = backward_live_bytes(module) or (0.0,)
    if not (policy.sharded or weights.apart):
        first += module.weight_gradient_bytes
    live = (first, *others)
    _take(emit, live)
    if weights.apart and postponed(module):
        _run(emit, module.dgrad, module.dgrad_steps)
        exposed(emit, module.post_dgrad)
        _give_back(emit, live)
        emit.memory("activations", input_bytes(module) - module.saved_bytes)
        emit.memory(OUTPUT_GRADIENTS, output_gradient_bytes(module))
        return
    if policy.beside:
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
    _give_back(emit, live)
    emit.memory("activations", -module.saved_bytes)
