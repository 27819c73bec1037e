"""Hierarchical collectives: inside the island first or last, along the rails between."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from desim.network.collectives.ring import mean_hop_s
from desim.network.lanes import Traffic, lanes_of
from desim.network.loads import Loads
from desim.network.pace import ring_pace

if TYPE_CHECKING:
    from desim.network.loads import Profile
    from desim.network.places import Places


def all_reduce(places: Places) -> Profile:
    """Reduce-scatter inside the island, all-reduce the shards per rail, all-gather inside."""
    return _hierarchical(places, rounds=2)


def all_gather(places: Places) -> Profile:
    """Ring all-gather per rail, then inside the island."""
    return _hierarchical(places, rounds=1)


def reduce_scatter(places: Places) -> Profile:
    """Ring reduce-scatter inside the island, then per rail."""
    return _hierarchical(places, rounds=1)


def _hierarchical(places: Places, rounds: int) -> Profile:
    """Same bytes as a ring, but k - 1 steps inside and N - 1 between instead of N k - 1."""
    loads = Loads(places.topology, places.num_groups)
    members = places.part_size.astype(np.float64)
    local = places.per_member(rounds * (members - 1) / members)
    places.add_local(loads, local, local)
    places.add_ring_crossings(loads, rounds * (members - 1) / members)
    near_s = rounds * (places.widest - 1) * places.topology.system.nvlink_latency_s
    far_s = np.zeros(places.num_groups)
    if not places.alone:
        lanes = lanes_of(places)
        onward = lanes.shifted(1)
        traffic = Traffic(lanes)
        traffic.send(onward, rounds * (lanes.length - 1) / lanes.length * lanes.share)
        traffic.add_to(loads)
        far_s = rounds * (places.num_parts - 1) * mean_hop_s(lanes, onward)
    return loads.profile(near_s, far_s, places.sms(), "ring", ring_pace(places, rounds))
