"""Fully sharded data parallel: a layer's parameters exist only around its passes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from desim.models.elementwise import elementwise_op
from desim.plan.passes import Direction, Hooks
from desim.plan.template import NOTHING, START

if TYPE_CHECKING:
    from collections.abc import Callable

    from desim.models.op import Op
    from desim.plan.buckets import GradientWidth
    from desim.plan.data_groups import DataGroups
    from desim.plan.stages import Chunk
    from desim.plan.template import Emitter, Mark
    from desim.spec.policy import Fsdp, FsdpIssue


@dataclass(frozen=True, slots=True)
class Accumulation:
    """Where a micro-batch stands among those whose gradients are reduced together."""

    first: bool = True
    last: bool = True


@dataclass(frozen=True, slots=True)
class Issue:
    """How far ahead of their use gathers are issued, and who waits for room.

    `host_waits`: the host, before it issues one more than `gathers_in_flight` (`limit_all_gathers`
    of FSDP1); else the stream of the gathers, until an earlier one is copied out (FSDP2). `late`:
    a layer's memory is given back only when something has waited for its last use.
    """

    forward: int
    backward: int
    host_waits: bool = True
    late: bool = True


def _explicit(fsdp: Fsdp) -> Issue:
    backward = fsdp.prefetch if fsdp.prefetch_backward is None else fsdp.prefetch_backward
    return Issue(fsdp.prefetch, backward, late=False)


#: `policies.fsdp.issue`. What FSDP does by default in the forward pass is to issue a layer's gather
#: when the host comes to the layer, and in the backward pass to issue the next one's first
#: (FSDP1: `BackwardPrefetch.BACKWARD_PRE`; FSDP2: `_backward_prefetch`).
ISSUES: dict[FsdpIssue, Callable[[Fsdp], Issue]] = {
    "explicit": _explicit,
    "host_run_ahead": lambda fsdp: Issue(0, 1),
    "implicit": lambda fsdp: Issue(0, 1, host_waits=False),
}


class ShardLayers(Hooks):
    """Gathers each layer ahead of its use and reduce-scatters its gradients after it.

    The host issues gathers in the order of use, as far ahead as `Issue` says; before it issues one
    more than `gathers_in_flight` it waits until the device has freed the oldest. With
    `reshard_after_forward` every layer but the chunk's last is gathered again for the backward
    pass: from all ranks that shard it, or, with a number, from as many neighbours that kept it
    whole among them. With `root_unit` the chunk's ends are gathered together, before all others and
    outside of the limit, and reduced together after all others.
    """

    def __init__(
        self,
        chunk: Chunk,
        fsdp: Fsdp,
        groups: DataGroups,
        gathered_bytes: Callable[[float, float], float],
        width: GradientWidth,
        accumulation: Accumulation,
    ) -> None:
        self._own = [float(layer.trained) for _, layer in chunk]
        self._gathered = [gathered_bytes(layer.parameters, layer.quantized) for _, layer in chunk]
        self._fsdp = fsdp
        self._groups = groups
        self._width = width
        self._accumulation = accumulation
        last = len(chunk) - 1
        self._sizes = list(self._own)
        kept = {last}
        self._held = int(fsdp.root_unit and last > 0)
        if self._held:
            kept.add(0)
            for sizes in (self._sizes, self._gathered):
                sizes[0] += sizes[last]
                sizes[last] = 0
        units = [i for i in range(last + 1) if not (self._held and i == last)]
        again = [i for i in units if fsdp.reshard_after_forward and i not in kept]
        self._units = set(units)
        self._order: list[tuple[Direction, int]] = [("forward", i) for i in units]
        self._order += [("backward", i) for i in reversed(again)]
        self._gathered_again = set(again)
        self._units_forward = len(units)
        self._issue = ISSUES[fsdp.issue](fsdp)
        self._kept_share = 1 / groups.reshard if groups.reshard else 0.0
        self._issued = 0
        self._copied = self._bound = NOTHING
        self._late: list[float] = []
        self._marks: dict[tuple[Direction, int], Mark] = {}
        self._freed: list[Mark] = []

    def before_layer(self, emit: Emitter, direction: Direction, position: int) -> None:
        """Issue this layer's gather and those prefetched, then wait for this layer's."""
        if direction == "backward" and self._accumulation.first:
            emit.memory("gathered gradients", self._own[position] * self._width.kept_bytes)
        key = (direction, position)
        here = self._order.index(key) + 1 if key in self._order else 0
        if not here and (direction == "forward" or self._issue.forward):
            return
        ahead = self._issue.forward if direction == "forward" else self._issue.backward
        reach = (here or self._units_forward) + ahead
        if not self._issue.host_waits:
            self._gather_up_to(emit, here)
            if here:
                self._await(emit, key)
            self._gather_up_to(emit, reach)
            return
        room = len(self._freed) + self._fsdp.gathers_in_flight + self._held
        self._gather_up_to(emit, max(here, min(reach, room)))
        if here:
            self._await(emit, key)

    def _gather_up_to(self, emit: Emitter, number: int) -> None:
        while self._issued < min(number, len(self._order)):
            self._gather(emit)

    def _await(self, emit: Emitter, key: tuple[Direction, int]) -> None:
        """Wait for a gather; copy out what it brought.

        The stream of the gathers in turn waits for a copy out before it overwrites the buffer:
        forward for that of the layer before, backward for this layer's (FSDP2's `wait_for_unshard`,
        torch/distributed/fsdp/_fully_shard/_fsdp_param_group.py).
        """
        emit.wait(self._marks[key])
        if self._fsdp.per_parameter:
            self._copy_out(emit, self._gathered[key[1]])
        if not self._issue.host_waits:
            self._give_back(emit, len(self._late))
        here = emit.now()
        self._bound = self._copied if key[0] == "forward" else here
        self._copied = here

    def after_layer(self, emit: Emitter, direction: Direction, position: int) -> None:
        """Free what was gathered and reduce what was computed."""
        size = self._sizes[position]
        if direction == "forward" and position in self._gathered_again:
            self._keep_part(emit, position, 1.0)
            self._free(emit, position)
        if direction == "backward" and position in self._units:
            self._free(emit, position)
            if self._accumulation.last:
                self._reduce_layer(emit, size)
                emit.memory("gathered gradients", -size * self._width.kept_bytes)
            if position == 0:
                self._give_back(emit, len(self._late))

    def _gather(self, emit: Emitter) -> None:
        over = self._issued - self._fsdp.gathers_in_flight - self._held
        if self._issue.host_waits and 0 <= over < len(self._freed):
            emit.host_wait(self._freed[over])
            given_back = len(self._freed) - len(self._late)
            self._give_back(emit, over + 1 - given_back)
        direction, position = key = self._order[self._issued]
        size = self._gathered[position]
        emit.memory("gathered parameters", size)
        # The first needs the updated parameters; the others follow it on their lane.
        after = self._bound if self._issued and not self._issue.host_waits else NOTHING
        again = direction == "backward"
        self._marks[key] = self._groups.gather(
            emit, size, after if self._issued else START, beside=True, again=again
        )
        self._keep_part(emit, position, -1.0 if again else 0.0)
        self._issued += 1

    def _copy_out(self, emit: Emitter, size: float) -> None:
        """Copy what was gathered rank by rank into whole parameters (`split_with_sizes_copy`)."""
        phase, emit.phase = emit.phase, "parameters"
        emit.kernel(elementwise_op("param copy out", "copy", "bf16", size / 2, 2.0, 2.0, 0.0))
        emit.phase = phase

    def _free(self, emit: Emitter, position: int) -> None:
        self._freed.append(emit.now())
        self._late.append(self._gathered[position])
        if not self._issue.late:
            self._give_back(emit, 1)

    def _give_back(self, emit: Emitter, number: int) -> None:
        """Give the memory of the first `number` freed layers back."""
        for _ in range(number):
            emit.memory("gathered parameters", -self._late.pop(0))

    def _keep_part(self, emit: Emitter, position: int, sign: float) -> None:
        """Copy this rank's part of a gathered layer out of it, and give it back once used."""
        size = self._gathered[position] * self._kept_share
        if size and sign > 0:
            emit.kernel(elementwise_op("param reshard", "copy", "bf16", size / 2, 2.0, 2.0, 0.0))
        emit.memory("kept parameters", sign * size)

    def _prepared(self, size: float) -> tuple[Op, ...]:
        """Return what brings a layer's gradients into the buffer that is reduced.

        FSDP2 copies and converts them in one kernel (`_chunk_cat`) and lets NCCL average. FSDP1's
        gradients of views are joined to that of the flat parameter (backward of `split`), converted
        and divided in part before the reduction (`_div_if_needed`, `_gradient_predivide_factor`).
        """
        width = self._width
        made, reduced = width.made_bytes, width.reduced_bytes
        if self._fsdp.per_parameter:
            return (elementwise_op("grad copy in", "copy", "bf16", size, made, reduced, 0.0),)
        return (
            elementwise_op("grad flatten", "copy", "bf16", size, made, made, 0.0),
            *replace(width, kept_bytes=made).casts(size),
            *width.scaled(size),
        )

    def _reduce_layer(self, emit: Emitter, size: float) -> None:
        if not size:
            return
        phase, emit.phase = emit.phase, "gradients"
        emit.kernels(self._prepared(size))
        whole = size * self._width.reduced_bytes
        self._groups.reduce(emit, whole, scatter=True, beside=True, name="grad reduce")
        emit.phase = phase
