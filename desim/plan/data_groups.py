"""Data-parallel groups: over which ranks gradients are reduced and states are sharded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from desim.models.op import Comm

if TYPE_CHECKING:
    from collections.abc import Iterable

    from desim.models.op import Layer
    from desim.plan.template import Emitter, Input, Mark


@dataclass(frozen=True, slots=True)
class DataGroups:
    """Reduces gradients over `ranks`, of which `shard` neighbours hold one copy of the states.

    With `shard` below `ranks` (ZeRO inside a node, PyTorch's HYBRID_SHARD) gradients are
    reduce-scattered inside the shard group, then each rank's part is all-reduced with its replicas
    in the other shard groups; parameters are gathered inside the shard group only (Zhao et al.
    2023, arXiv:2304.11277, section 3.2.2; Chen et al. 2024, arXiv:2401.09149, on InternEvo).

    `whole`: states are given out tensor by tensor: gradients are all-reduced over all ranks, and
    parameters are broadcast from their owner (InternEvo's solver/optimizer/hybrid_zero_optim.py:
    `reduce_rank` is none, `broadcast_params`).
    """

    ranks: int
    shard: int
    group: str = "dp"
    """Mesh group of all `ranks`."""
    experts: DataGroups | None = None
    """Groups of the experts' parameters, where they are not those of the others."""
    whole: bool = False
    """Whether states are given out by whole tensors."""
    reshard: int = 0
    """Neighbours that keep a layer whole among them between its passes (FSDP2); 0: none do."""

    @property
    def neighbours(self) -> int:
        """Ranks of a part of the data-parallel group, where something is shared in parts of it."""
        return self.reshard or self.shard

    def of(self, expert: bool) -> DataGroups:
        """Return the groups of the parameters of experts, or of the others."""
        return self.experts if expert and self.experts else self

    @property
    def gathers(self) -> bool:
        """Whether sharded parameters have to be gathered from other ranks."""
        return self.shard > 1 or (self.experts is not None and self.experts.shard > 1)

    def parts(self, layers: Iterable[Layer]) -> list[tuple[int, int]]:
        """Return the trained parameters of `layers`, and over how many ranks they are sharded."""
        held = list(layers)
        parameters = sum(layer.trained for layer in held)
        experts = sum(layer.expert_parameters for layer in held)
        if self.experts is None or not experts:
            return [(parameters, self.shard)]
        return [(parameters - experts, self.shard), (experts, self.experts.shard)]

    @property
    def _shard_group(self) -> str:
        return self.group if self.shard == self.ranks else "shard"

    def reduce(
        self, emit: Emitter, size_bytes: float, *, scatter: bool, beside: bool, name: str
    ) -> Mark:
        """Issue the reduction of `size_bytes` of gradients, done at the mark returned.

        `scatter` leaves each rank with its shard; otherwise all have everything.
        """
        if not scatter or self.shard == 1 or self.whole:
            comm = Comm(self.group, "all_reduce", size_bytes, name)
            return emit.collective(comm, beside=beside, lane="dp")
        comm = Comm(self._shard_group, "reduce_scatter", size_bytes, name)
        mark = emit.collective(comm, beside=beside, lane="dp")
        if self.shard < self.ranks:
            comm = Comm("replica", "all_reduce", size_bytes / self.shard, f"{name} of replicas")
            mark = emit.collective(comm, mark, beside=beside, lane="dp")
        return mark

    def gather(
        self,
        emit: Emitter,
        size_bytes: float,
        after: Mark | Input,
        *,
        beside: bool,
        again: bool = False,
    ) -> Mark:
        """Issue the gather of parameters that are `size_bytes` when whole, once `after` is done.

        `again`: they were there before, and `reshard` neighbours may have kept them.
        """
        phase, emit.phase = emit.phase, "parameters"
        group = "shard" if again and self.reshard else self._shard_group
        spread: Literal["broadcast", "all_gather"] = "broadcast" if self.whole else "all_gather"
        comm = Comm(group, spread, size_bytes, "param gather")
        mark = emit.collective(comm, after, beside=beside, lane="dp")
        emit.phase = phase
        return mark
