"""The mesh: which rank sits where, and which ranks form a group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from desim.spec.scenario import Parallel


@dataclass(frozen=True, slots=True)
class Mesh:
    """Ranks 0..n-1 laid out over named axes; rank r runs on device r.

    `order` names the axes from the one whose neighbours are consecutive ranks outward, as
    Megatron-LM's `--order` does. `experts` is a second layout of the same ranks, by which experts
    are shared: its `tp` are the ranks of one expert's matrices, its `dp` the copies of an expert.
    `context_inside` neighbours on `cp` form a group of their own where context parallelism has two
    levels.
    """

    order: tuple[str, ...]
    sizes: dict[str, int]
    experts: Mesh | None = None
    context_inside: int = 1

    @property
    def num_ranks(self) -> int:
        """Ranks of the job."""
        total = 1
        for size in self.sizes.values():
            total *= size
        return total

    @property
    def stated(self) -> dict[str, int]:
        """Sizes as a scenario states them: also of expert groups, taken from tp, cp and dp."""
        return self.sizes if self.experts is None else self.sizes | {"ep": self.experts.sizes["ep"]}

    def _grid(self) -> NDArray[np.int64]:
        shape = [self.sizes[axis] for axis in reversed(self.order)]
        return np.arange(self.num_ranks, dtype=np.int64).reshape(shape)

    def coordinate(self, axis: str) -> NDArray[np.int64]:
        """Position of every rank along `axis`."""
        inner = 1
        for name in self.order:
            if name == axis:
                break
            inner *= self.sizes[name]
        return np.arange(self.num_ranks, dtype=np.int64) // inner % self.sizes[axis]

    def groups(self, *axes: str) -> NDArray[np.int64]:
        """Groups of the ranks that differ only along `axes`: one row a group, members ascending."""
        grid = self._grid()
        positions = [len(self.order) - 1 - self.order.index(axis) for axis in axes]
        kept = [i for i in range(grid.ndim) if i not in positions]
        size = int(np.prod([self.sizes[axis] for axis in axes]))
        rows = grid.transpose([*kept, *sorted(positions)]).reshape(-1, size)
        return np.sort(rows, axis=1)

    def neighbour(self, axis: str, shift: int) -> NDArray[np.int64]:
        """Rank at distance `shift` along `axis` from every rank, around the end."""
        inner = 1
        for name in self.order:
            if name == axis:
                break
            inner *= self.sizes[name]
        size = self.sizes[axis]
        here = self.coordinate(axis)
        ranks = np.arange(self.num_ranks, dtype=np.int64)
        return ranks + ((here + shift) % size - here) * inner

    def describe(self, rank: int) -> dict[str, int]:
        """Coordinate of one rank by axis."""
        place, home = {}, rank
        for axis in self.order:
            place[axis] = rank % self.sizes[axis]
            rank //= self.sizes[axis]
        return place if self.experts is None else {**place, "ep": self.experts.describe(home)["ep"]}


def build_mesh(parallel: Parallel) -> Mesh:
    """Make the mesh of a resolved `parallel` section (`data` is a number).

    Expert groups are taken from tensor, context and data together, in the same order of axes, as
    in Megatron-Core (Liu et al. 2025, arXiv:2504.14960, "MoE parallel folding").
    """
    assert parallel.data != "auto", "the loader resolves data: auto"
    sizes = {
        "tp": parallel.tensor,
        "cp": parallel.context,
        "ep": 1,
        "dp": int(parallel.data),
        "pp": parallel.pipeline,
    }
    order = tuple(parallel.order.split("-"))
    tensor = parallel.expert_tensor or parallel.tensor
    if parallel.expert == 1 and tensor == parallel.tensor:
        return Mesh(order, sizes)
    shared = sizes["tp"] * sizes["cp"] * sizes["dp"]
    copies = shared // (tensor * parallel.expert)
    experts = {"tp": tensor, "cp": 1, "ep": parallel.expert, "dp": copies, "pp": sizes["pp"]}
    return Mesh(order, sizes, Mesh(order, experts))
