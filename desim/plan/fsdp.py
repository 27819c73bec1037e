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
    from desim.spec.policy import Fsdp


@dataclass(frozen=True, slots=True)
class Accumulation:
    """Where a micro-batch stands among those whose gradients are reduced together."""

    first: bool = True
    last: bool = True


class ShardLayers(Hooks):
    """Gathers each layer ahead of its use and reduce-scatters its gradients after it.

    The host issues gathers in the order of use, `prefetch` layers ahead; before it issues one more
    than `gathers_in_flight` it waits until the device has freed the oldest (FSDP's
    `limit_all_gathers`). With `reshard_after_forward` every layer but the chunk's last is gathered
    again for the backward pass. With `root_unit` the chunk's ends are gathered together, before
    all others and outside of the limit, and reduced together after all others.
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
        self._issued = 0
        self._marks: dict[tuple[Direction, int], Mark] = {}
        self._freed: list[Mark] = []

    def before_layer(self, emit: Emitter, direction: Direction, position: int) -> None:
        """Issue this layer's gather and those prefetched, then wait for this layer's."""
        if direction == "backward" and self._accumulation.first:
            emit.memory("gathered gradients", self._own[position] * self._width.kept_bytes)
        key = (direction, position)
        if key not in self._order:
            return
        here = self._order.index(key) + 1
        room = len(self._freed) + self._fsdp.gathers_in_flight + self._held
        reach = max(here, min(here + self._fsdp.prefetch, room, len(self._order)))
        while self._issued < reach:
            self._gather(emit)
        emit.wait(self._marks[key])
        if self._fsdp.per_parameter:
            self._copy_out(emit, self._gathered[position])

    def after_layer(self, emit: Emitter, direction: Direction, position: int) -> None:
        """Free what was gathered and reduce what was computed."""
        size = self._sizes[position]
        if direction == "forward" and position in self._gathered_again:
            self._free(emit, position)
        if direction == "backward" and position in self._units:
            self._free(emit, position)
            if self._accumulation.last:
                self._reduce_layer(emit, size)
                emit.memory("gathered gradients", -size * self._width.kept_bytes)

    def _gather(self, emit: Emitter) -> None:
        over = self._issued - self._fsdp.gathers_in_flight - self._held
        if 0 <= over < len(self._freed):
            emit.host_wait(self._freed[over])
        key = self._order[self._issued]
        size = self._gathered[key[1]]
        emit.memory("gathered parameters", size)
        # The first needs the updated parameters; the others follow it on their lane.
        after = NOTHING if self._issued else START
        self._marks[key] = self._groups.gather(emit, size, after, beside=True)
        self._issued += 1

    def _copy_out(self, emit: Emitter, size: float) -> None:
        """Copy what was gathered rank by rank into whole parameters (`split_with_sizes_copy`)."""
        phase, emit.phase = emit.phase, "parameters"
        emit.kernel(elementwise_op("param copy out", "copy", "bf16", size / 2, 2.0, 2.0, 0.0))
        emit.phase = phase

    def _free(self, emit: Emitter, position: int) -> None:
        emit.memory("gathered parameters", -self._gathered[position])
        self._freed.append(emit.now())

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
