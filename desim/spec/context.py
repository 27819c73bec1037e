"""Context parallelism on two levels: how many neighbours exchange heads."""

from __future__ import annotations

from math import gcd
from typing import TYPE_CHECKING

from desim.spec.workload import Transformer

if TYPE_CHECKING:
    from desim.spec.scenario import Scenario


def held_kv_heads(scenario: Scenario) -> int:
    """Key and value heads of one tensor rank, which bound how many ranks can exchange heads."""
    model = scenario.workload.model
    if not isinstance(model, Transformer):
        return 1
    return max(1, model.kv_heads // scenario.parallel.tensor)


def heads_inside(scenario: Scenario) -> int:
    """Neighbours of a context group that exchange heads under `policies.context: two_level`.

    Left out, as many as divide the heads of keys and values that a tensor rank holds, and stand in
    one NVLink domain beside their tensor ranks.
    """
    parallel, policies = scenario.parallel, scenario.policies
    if policies.context != "two_level" or parallel.context == 1:
        return 1
    if policies.context_inside is not None:
        return policies.context_inside
    most = gcd(parallel.context, held_kv_heads(scenario))
    room = max(1, scenario.cluster.system.nvlink_domain // parallel.tensor)
    return max(size for size in range(1, most + 1) if most % size == 0 and size <= room)
