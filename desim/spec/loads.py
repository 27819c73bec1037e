"""How tokens fall on the ranks that share the experts, and on the nodes these stand in."""

from __future__ import annotations

from math import comb
from typing import TYPE_CHECKING

import numpy as np

from desim.spec.workload import Transformer

if TYPE_CHECKING:
    from desim.spec.mixture import Mixture
    from desim.spec.scenario import Scenario


def expert_loads(scenario: Scenario) -> tuple[float, ...]:
    """Tokens of each rank of an expert group over their mean.

    Given by `policies.experts.load`, or drawn for each expert by `policies.experts.spread` (a
    log-normal of that deviation, with the seed of the run) and summed over those of a rank; the
    same in every layer and micro-batch. With a capacity all ranks have the same buffers.
    """
    model, ranks = scenario.workload.model, scenario.parallel.expert
    moe = model.moe if isinstance(model, Transformer) else None
    experts = scenario.policies.experts
    if moe is None or moe.capacity_factor is not None or ranks == 1:
        return (1.0,) * ranks
    if experts.load is not None:
        given = np.array(experts.load)
    elif experts.spread > 0:
        random = np.random.default_rng(scenario.run.seed)
        drawn = random.lognormal(0.0, experts.spread, moe.experts)
        given = drawn.reshape(ranks, -1).sum(axis=1)
    else:
        return (1.0,) * ranks
    return tuple((given / given.mean()).tolist())


def nodes_reached(moe: Mixture, nodes: int, limit: int | None = None) -> float:
    """Nodes that hold the experts of a token, on average, of the `nodes` of an expert group.

    Every choice of `top_k` experts is taken to be as likely; with a `limit` those on so many nodes,
    each choice of them as likely (DeepSeek-AI 2024, arXiv:2412.19437, section 2.1.2,
    "node-limited routing"). Of M nodes with e experts each one is missed by C(Me - e, k) of
    C(Me, k) choices.
    """
    each = max(1, moe.experts // nodes)
    allowed = min(nodes, max(limit or nodes, -(-moe.top_k // each)))
    missed = comb(max(allowed - 1, 0) * each, moe.top_k) / comb(allowed * each, moe.top_k)
    return allowed * (1 - missed)
