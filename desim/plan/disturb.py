"""Disturbances: slow devices, degraded links, jitter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from desim.errors import Mistake, SpecError
from desim.spec.scenario import DegradedLink, Jitter, SlowDevice

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from desim.network.topology import Topology
    from desim.spec.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Disturbed:
    """The cluster as disturbed: compute speed per device, links, and the spread of kernel times."""

    compute: NDArray[np.float64]
    topology: Topology
    jitter: float


def disturb(scenario: Scenario, topology: Topology) -> Disturbed:
    """Apply a scenario's disturbances to its devices and links.

    Raises SpecError when a link pattern names no link.
    """
    compute = np.ones(scenario.cluster.devices)
    capacity = np.ones(topology.num_links)
    jitter = 0.0
    mistakes = []
    for index, item in enumerate(scenario.disturb):
        if isinstance(item, SlowDevice):
            compute[item.device] *= item.compute
        elif isinstance(item, DegradedLink):
            links = topology.links_matching(item.link)
            if not len(links):
                mistakes.append(_no_link(index, item, topology))
            capacity[links] *= item.bandwidth
        elif isinstance(item, Jitter):
            jitter = float(np.hypot(jitter, item.jitter))
    if mistakes:
        raise SpecError(mistakes)
    degraded = topology.degrade(capacity) if (capacity != 1.0).any() else topology
    return Disturbed(compute, degraded, jitter)


def _no_link(index: int, item: DegradedLink, topology: Topology) -> Mistake:
    kinds = sorted(
        {topology.name(int(link)) for link in np.unique(topology.kind, return_index=True)[1]}
    )
    return Mistake(
        path=f"disturb.{index}.link",
        rule="no link of the cluster has this name",
        value=repr(item.link),
        hint=f"links are named like {', '.join(kinds)}; * stands for any text",
    )
