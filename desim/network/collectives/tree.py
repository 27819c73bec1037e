"""Tree collectives: NCCL's double binary tree, and the parallel aggregated trees (PAT)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from desim.network.lanes import Traffic, lanes_of
from desim.network.loads import Loads
from desim.network.pace import ring_pace

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from desim.network.lanes import Lanes
    from desim.network.loads import Profile
    from desim.network.places import Places


def all_reduce(places: Places) -> Profile:
    """Double binary tree between islands, a chain inside: reduced upward, broadcast downward.

    Two trees carry half of the bytes each, so that an inner part of one is a leaf of the other
    (Sanders, Speck and Traeff 2009; NCCL 2.4). Latency is that of NCCL's model: the chain, then one
    step per tree level, both ways.
    """
    loads = Loads(places.topology, places.num_groups)
    members = places.part_size.astype(np.float64)
    local = places.per_member(2 * (members - 1) / members)
    places.add_local(loads, local, local)
    places.add_ring_crossings(loads, np.ones(len(members)))
    near_s = 2 * (places.widest - 1) * places.topology.system.nvlink_latency_s
    far_s = np.zeros(places.num_groups)
    if not places.alone:
        far_s = add_double_tree(places, loads)
    return loads.profile(near_s, far_s, places.sms(), "tree", ring_pace(places, rounds=2))


def all_gather(places: Places) -> Profile:
    """PAT between islands, then a ring inside: log2 rounds instead of n - 1."""
    return _pat(places, direction=1)


def reduce_scatter(places: Places) -> Profile:
    """PAT between islands after a ring inside, in the reverse order of the all-gather."""
    return _pat(places, direction=-1)


def add_double_tree(places: Places, loads: Loads) -> NDArray[np.float64]:
    """Add the inter-island part of a tree all-reduce; return its latency in seconds per group."""
    lanes = lanes_of(places)
    traffic = Traffic(lanes)
    odd = lanes.length % 2
    # The second tree is mirrored for an even number of parts and shifted by one for an odd one.
    mirrored = np.where(odd, (lanes.position - 1) % lanes.length, lanes.length - 1 - lanes.position)
    slowest = np.zeros(places.num_groups)
    for tree, node in enumerate((lanes.position, mirrored)):
        parent = tree_parent(node, lanes.length)
        if tree:
            parent = np.where(odd, (parent + 1) % lanes.length, lanes.length - 1 - parent)
        target = lanes.at(parent)
        traffic.exchange(target, 0.5 * lanes.share * (node > 0))
        slowest = np.maximum(slowest, _climb_s(lanes, node, target))
    traffic.add_to(loads)
    return 2 * slowest


def tree_parent(node: NDArray[np.int64], count: NDArray[np.int64]) -> NDArray[np.int64]:
    """Parent of each node 0..count-1 in the binary tree whose root is 0 (its own parent).

    A node's height is the number of zeros that its number ends in; its parent is the nearest number
    of the next height, or the nearest lower one where that does not exist.
    """
    lowest = node & -node
    without = node ^ lowest
    parent: NDArray[np.int64] = without | (lowest << 1)
    return np.where((parent >= count) | (node == 0), without, parent)


def _climb_s(
    lanes: Lanes, node: NDArray[np.int64], target: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Latency from the lowest leaf to the root: the slowest edge of every height in turn."""
    num_heights = int(lanes.length.max()).bit_length()
    height = np.frexp((node & -node).astype(np.float64))[1] - 1
    slowest = np.zeros((lanes.places.num_groups, num_heights))
    edges = node > 0
    np.maximum.at(slowest, (lanes.group[edges], height[edges]), lanes.hop_s(target)[edges])
    climb_s: NDArray[np.float64] = slowest.sum(axis=1)
    return climb_s


def _pat(places: Places, direction: int) -> Profile:
    """Parallel aggregated trees: n - 1 blocks in log2 rounds, most of them to near neighbours.

    Jeaugey 2025 ("PAT: a new algorithm for all-gather and reduce-scatter operations at scale"): a
    block goes far first, so the round of distance d carries the blocks whose offset is an odd
    multiple of d.
    """
    loads = Loads(places.topology, places.num_groups)
    members = places.part_size.astype(np.float64)
    local = places.per_member((members - 1) / members)
    places.add_local(loads, local, local)
    places.add_ring_crossings(loads, (members - 1) / members)
    near_s = (places.widest - 1) * places.topology.system.nvlink_latency_s
    far_s = np.zeros(places.num_groups)
    if not places.alone:
        far_s = _add_rounds(places, loads, direction)
    return loads.profile(near_s, far_s, places.sms(), "pat", ring_pace(places, rounds=1))


def _add_rounds(places: Places, loads: Loads, direction: int) -> NDArray[np.float64]:
    lanes = lanes_of(places)
    traffic = Traffic(lanes)
    latency_s = np.zeros(places.num_groups)
    first_entry = np.flatnonzero(np.diff(lanes.group, prepend=-1))
    distance = 1
    while distance < places.num_parts.max():
        # Groups of fewer parts than the distance have no such round: their weight is 0.
        blocks = (lanes.length - 1) // distance - (lanes.length - 1) // (2 * distance)
        target = lanes.shifted(direction * distance)
        traffic.send(target, blocks / lanes.length * lanes.share)
        hop_s = np.maximum.reduceat(lanes.hop_s(target), first_entry)
        latency_s += np.where(distance < places.num_parts, hop_s, 0.0)
        distance *= 2
    traffic.add_to(loads)
    return latency_s
