"""Shift and push: every member sends to the next one round the group, by a kernel or by a copy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from desim.network.loads import Loads
from desim.network.route import levels_climbed, route, weights

if TYPE_CHECKING:
    from desim.network.loads import Profile
    from desim.network.places import Places
    from desim.network.protocols import Kernel


def pairs(places: Places) -> Profile:
    """One send and one receive on every member at once: load 1 on each route, the slowest latency.

    What NCCL makes of a batched isend/irecv pair; a send has no protocol but Simple.
    """
    return _next_ones(places, places.topology.system.device.communication.message_sms, "send")


def copies(places: Places) -> Profile:
    """Copy engines write to the next member's memory: as a shift, and no SM is held.

    Transformer Engine's user buffers (`use_ce`), PyTorch's symmetric memory.
    """
    return _next_ones(places, 0, "copy")


def _next_ones(places: Places, sms: int, kernel: Kernel) -> Profile:
    topology = places.topology
    system = topology.system
    if places.size == 1:
        quiet = np.zeros(places.num_groups)
        return Loads(topology, places.num_groups).profile(quiet, quiet, 0, "copy")
    rows = places.member.reshape(places.num_groups, places.size)
    target = np.roll(rows, -1, axis=1).ravel()
    flow, link = route(topology, places.member, target)
    climbed = levels_climbed(topology, places.member, target)
    climbed = climbed.reshape(places.num_groups, places.size).max(axis=1)
    hop_s = system.fabric.latency_s + system.fabric.hop_latency_s * (climbed - 1.0)
    near_s = np.where(climbed > 0, 0.0, system.nvlink_latency_s)
    far_s = np.where(climbed > 0, hop_s, 0.0)
    loads = Loads(topology, places.num_groups)
    loads.add(0, places.member_group[flow], link, weights(topology, link))
    return loads.profile(near_s, far_s, sms, kernel)
