"""Kinds of ranks: what the ranks of one pipeline stage do differently by their place in the mesh.

Ranks of a regular job differ by stage only. Where a sequence is cut in one chunk a context rank, or
experts get unequal tokens, ranks of a stage issue the same collectives in the same order beside
kernels of unlike sizes; each such kind has layers and programs of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from desim.spec.loads import expert_loads
from desim.spec.workload import Transformer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from desim.models.shard import Shard
    from desim.plan.mesh import Mesh
    from desim.spec.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Kinds:
    """The part of the model that ranks of each kind hold, the busiest first; rank r is of_rank[r].

    Only what they compute differs.
    """

    shards: tuple[Shard, ...]
    of_rank: NDArray[np.int64]


def kinds_of(scenario: Scenario, mesh: Mesh, shard: Shard) -> Kinds:
    """Find the kinds of ranks of a job whose ranks hold `shard` otherwise."""
    place = _places(scenario, mesh)
    load = _loads(scenario, mesh)
    if place is None and load is None:
        return Kinds((shard,), np.zeros(mesh.num_ranks, dtype=np.int64))
    rows = np.zeros((mesh.num_ranks, 2))
    if place is not None:
        rows[:, 0] = place
    if load is not None:
        rows[:, 1] = load
    found, of_rank = np.unique(-rows, axis=0, return_inverse=True)
    shards = tuple(
        replace(
            shard,
            context_place=None if place is None else int(-own_place),
            expert_load=shard.expert_load if load is None else float(-own_load),
        )
        for own_place, own_load in found.tolist()
    )
    return Kinds(shards, of_rank.reshape(-1).astype(np.int64))


def _places(scenario: Scenario, mesh: Mesh) -> NDArray[np.int64] | None:
    """Which chunk of the sequence every rank's attention has, where that decides its work."""
    policies, model = scenario.policies, scenario.workload.model
    equal = policies.context_balance == "zigzag" or policies.context == "all_to_all"
    if equal or mesh.sizes["cp"] == 1 or not isinstance(model, Transformer) or not model.causal:
        return None
    if scenario.kernels.attention == "unfused" or mesh.sizes["cp"] == mesh.context_inside:
        return None
    return mesh.coordinate("cp") // mesh.context_inside


def _loads(scenario: Scenario, mesh: Mesh) -> NDArray[np.float64] | None:
    """Tokens of every rank's experts over the mean, where they differ."""
    loads = expert_loads(scenario)
    if len(set(loads)) <= 1 or mesh.experts is None:
        return None
    return np.array(loads)[mesh.experts.coordinate("ep")]
