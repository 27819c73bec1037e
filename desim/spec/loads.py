"""How unevenly the tokens of a step fall on the ranks that share the experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from desim.spec.workload import Transformer

if TYPE_CHECKING:
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
