"""Ring collectives: every member passes blocks to the next one round the group."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from desim.network.lanes import Traffic, lanes_of
from desim.network.loads import Loads, Relay, weigh
from desim.network.pace import channel_seconds_per_byte, ring_pace

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from desim.network.lanes import Lanes
    from desim.network.loads import Profile
    from desim.network.places import Places


def all_reduce(places: Places) -> Profile:
    """Ring all-reduce: 2 (n - 1) steps, 2 (n - 1) / n of the input over every hop.

    Patarasuk and Yuan 2009, section 4 (reduce-scatter, then all-gather).
    """
    return _ring(places, rounds=2)


def all_gather(places: Places) -> Profile:
    """Ring all-gather: n - 1 steps, (n - 1) / n of the gathered result over every hop."""
    return _ring(places, rounds=1)


def reduce_scatter(places: Places) -> Profile:
    """Ring reduce-scatter: n - 1 steps, (n - 1) / n of the input over every hop."""
    return _ring(places, rounds=1)


def broadcast(places: Places) -> Profile:
    """Ring broadcast: n - 1 hops, all bytes over every one, in slices that are passed on.

    NCCL has no other algorithm for it (src/graph/tuning.cc). The last member has the first slice
    once all others have passed it on. One broadcast follows the next only when it has ended: rings
    on nodes of 8 GPUs go down the ranks (NVIDIA/nccl issue 514: 0 7 6 5 4 3 2 1 8 15 14 ...), so
    that the next owner is the last to be reached.
    """
    profile = _ring(places, rounds=1, hop=1.0 if places.size > 1 else 0.0)
    near_s, far_s = channel_seconds_per_byte(places.topology)
    parts = places.num_parts.astype(np.float64)
    relay = Relay(near_s * (places.size - parts), far_s * (parts - 1.0))
    return replace(profile, relay=relay)


def _ring(places: Places, rounds: int, hop: float | None = None) -> Profile:
    """One ring per lane, each leaving a part by another member, so that all NICs are used."""
    hop = rounds * (places.size - 1) / places.size if hop is None else hop
    loads = Loads(places.topology, places.num_groups)
    members = places.part_size.astype(np.float64)
    joined = places.num_parts[places.part_group] > 1
    # A ring that enters a part hops k - 1 times inside it; alone in an island it closes there.
    inside = hop * np.where(joined, (members - 1) / members, 1.0)
    local = places.per_member(inside)
    places.add_local(loads, local, local)
    places.add_ring_crossings(loads, inside)
    steps = rounds * (places.size - places.num_parts)
    near_s = steps * places.topology.system.nvlink_latency_s
    far_s = np.zeros(places.num_groups)
    if not places.alone:
        lanes = lanes_of(places)
        onward = lanes.shifted(1)
        traffic = Traffic(lanes)
        traffic.send(onward, hop * lanes.share * (lanes.length > 1))
        traffic.add_to(loads)
        far_s = rounds * (places.num_parts - 1) * mean_hop_s(lanes, onward)
    return loads.profile(near_s, far_s, places.sms(), "ring", ring_pace(places, rounds))


def mean_hop_s(lanes: Lanes, target: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean latency of each group's hops: a block passes all hops of its ring but one."""
    num_groups = lanes.places.num_groups
    entries = np.bincount(lanes.group, minlength=num_groups)
    return weigh(lanes.group, lanes.hop_s(target), num_groups) / entries
