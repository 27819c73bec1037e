"""All-to-all: every member has a block for every other one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from desim.network.exchange import Ends, add_exchange
from desim.network.lanes import lanes_of
from desim.network.loads import Loads
from desim.network.pace import copy_pace, message_pace

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from desim.network.loads import Profile
    from desim.network.places import Places

#: Messages of one rank that are under way at once. NCCL batches 8 sends per channel
#: (NCCL_MAX_DEV_WORK_P2P_PER_BATCH) and reports 16 p2p channels, 2 per peer, on H100 nodes.
CONCURRENT_PEERS = 64


def pairwise(places: Places) -> Profile:
    """Each member sends 1/n of its bytes straight to each of the n - 1 others."""
    loads = _between_pairs(places, places.size)
    near_s = _messages(places.widest - 1) * places.topology.system.nvlink_latency_s
    far_s = _far_s(places, places.size - _narrowest(places))
    # Messages to near and far peers go side by side: the slower of the two counts.
    leads = near_s >= far_s
    near_s, far_s = np.where(leads, near_s, 0), np.where(leads, 0, far_s)
    return loads.profile(near_s, far_s, places.sms(), "messages", message_pace(places))


def copies(places: Places) -> Profile:
    """Copy engines move all bytes of a chunk to one other member, in turn to each of them.

    The load is the mean over the n - 1 turns, the latency that of the farthest member; no SM is
    held. PyTorch's symmetric memory (`_fused_all_gather_matmul`) reads every chunk from its owner.
    """
    quiet = np.zeros(places.num_groups)
    if places.size == 1:
        return Loads(places.topology, places.num_groups).profile(quiet, quiet, 0, "copy")
    loads = _between_pairs(places, places.size - 1)
    far_s = _far_s(places, np.minimum(places.size - _narrowest(places), 1))
    near_s = np.where(far_s > 0, 0.0, places.topology.system.nvlink_latency_s)
    return loads.profile(near_s, far_s, 0, "copy", copy_pace(places))


def _between_pairs(places: Places, blocks: int) -> Loads:
    """Loads of one of `blocks` parts of its bytes from every member straight to every other."""
    loads = Loads(places.topology, places.num_groups)
    out = places.per_member((places.part_size - 1) / blocks)
    into = out
    if not places.alone:
        ends = Ends(
            topology=places.topology,
            among=places.member_group,
            group=places.member_group,
            part=places.member_part,
            device=places.member,
            weight=np.ones(len(places.member)),
            scale=np.full(len(places.member), 1 / blocks),
        )
        relayed_out, relayed_in = add_exchange(ends, loads, through=places.topology.shape.relays)
        out = out + relayed_out
        first = places.topology.start("nvlink_in")
        loads.add(first, relayed_in.group, relayed_in.device, relayed_in.load)
    places.add_local(loads, out, into)
    places.add_message_crossings(loads, np.full(len(places.part_size), 1 / blocks))
    return loads


def two_level(places: Places) -> Profile:
    """Inside the island to the member on the destination's rail first, then along the rails.

    A member then has k - 1 + N - 1 larger messages instead of N k - 1 (hierarchical all-to-all: Nie
    et al. 2022, HetuMoE; the two-dimensional one of Hwang et al. 2023, Tutel).
    """
    loads = Loads(places.topology, places.num_groups)
    inside = places.per_member((places.part_size - 1) / places.part_size)
    places.add_local(loads, inside, inside)
    places.add_message_crossings(loads, 1 / places.part_size)
    near_s = _messages(places.widest - 1) * places.topology.system.nvlink_latency_s
    far_s = np.zeros(places.num_groups)
    if not places.alone:
        add_exchange(_lane_ends(places), loads, through=False)
        far_s = _far_s(places, places.num_parts - 1)
    return loads.profile(near_s, far_s, places.sms(), "messages", message_pace(places))


def _lane_ends(places: Places) -> Ends:
    """The second level: an exchange on every lane, whose blocks hold what both parts gathered."""
    lanes = lanes_of(places)
    among = lanes.group * int(lanes.width.max()) + lanes.lane
    order = np.argsort(among, kind="stable")
    part = places.first_part[lanes.group] + lanes.position
    return Ends(
        topology=places.topology,
        among=among[order],
        group=lanes.group[order],
        part=part[order],
        device=lanes.device[order],
        weight=places.part_size[part[order]].astype(np.float64),
        scale=(1 / (places.size * lanes.width))[order],
    )


def _messages(peers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rounds in which a rank sends to all its peers."""
    return -(-peers // CONCURRENT_PEERS)


def _narrowest(places: Places) -> NDArray[np.int64]:
    """Members of the smallest part of each group."""
    return np.minimum.reduceat(places.part_size, places.first_part)


def _far_s(places: Places, peers: NDArray[np.int64]) -> NDArray[np.float64]:
    """Latency of the messages between islands, each as far as the group spans."""
    shape, fabric = places.topology.shape, places.topology.system.fabric
    nic = shape.nic(places.member)
    above = np.zeros(places.num_groups)
    for level in range(1, shape.levels):
        relayed = level == 1 and shape.relays
        pod = shape.unit(nic) if relayed else shape.pod(level, nic)
        pod = pod.reshape(places.num_groups, places.size)
        above += pod.min(axis=1) != pod.max(axis=1)
    hop_s: NDArray[np.float64] = fabric.latency_s + fabric.hop_latency_s * above
    return _messages(peers) * hop_s
