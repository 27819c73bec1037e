"""Profiles of collectives, of sends and of host copies."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from desim.network.collectives import ALGORITHMS
from desim.network.loads import Loads, Pace, Profile
from desim.network.mesh import pair_factor
from desim.network.places import places_of
from desim.network.route import levels_climbed, route, weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from desim.network.topology import Topology

__all__ = ["Profile", "collective_profile", "copy_profile", "send_profile", "thinned"]


def collective_profile(
    topology: Topology, members: NDArray[np.int64], collective: str, algorithm: str
) -> Profile:
    """Return how `algorithm` uses the network for the groups in the rows of `members`.

    Loads are per byte of the collective's size: the gathered result of an all-gather, the input of
    one rank of a reduce-scatter or all-reduce, all that one rank sends in an all-to-all (what it
    keeps for itself included).
    """
    return ALGORITHMS[collective][algorithm](places_of(topology, members))


def thinned(topology: Topology, profile: Profile, share: NDArray[np.float64]) -> Profile:
    """The profile with a share, by group, of its bytes between nodes or NVLink domains."""
    outside = profile.link >= topology.start("nic_out")
    load = np.where(outside, profile.load * share[profile.group], profile.load)
    return replace(profile, load=load, far_seconds_per_byte=profile.far_seconds_per_byte * share)


def send_profile(
    topology: Topology, source: NDArray[np.int64], destination: NDArray[np.int64]
) -> Profile:
    """Return the profile of messages, each a group of its own, with load 1 on its route."""
    source, destination = np.asarray(source, np.int64), np.asarray(destination, np.int64)
    system = topology.system
    flow, link = route(topology, source, destination)
    climbed = levels_climbed(topology, source, destination)
    outside = climbed > 0
    hop_s = system.fabric.latency_s + system.fabric.hop_latency_s * (climbed - 1.0)
    near_s = np.where(outside, 0.0, system.nvlink_latency_s)
    far_s = np.where(outside, hop_s, 0.0)
    sms = system.device.communication.message_sms
    loads = Loads(topology, len(source))
    loads.add(0, flow, link, weights(topology, link))
    pace = None
    if system.mesh_links is not None:
        inside = np.where(outside, source, destination)
        pace = Pace(factor=np.where(outside, 1.0, pair_factor(system, source, inside)))
    return loads.profile(near_s, far_s, sms, "send", pace)


def copy_profile(
    topology: Topology, devices: NDArray[np.int64], direction: Literal["h2d", "d2h"]
) -> Profile:
    """Return the profile of host copies: the device's PCIe link and its node's host memory."""
    devices = np.asarray(devices, np.int64)
    loads = Loads(topology, len(devices))
    kind = "pcie_in" if direction == "h2d" else "pcie_out"
    group, whole = np.arange(len(devices)), np.ones(len(devices))
    loads.add(topology.start(kind), group, devices, whole)
    node = devices // topology.shape.devices_per_node
    loads.add(topology.start("host_memory"), group, node, whole)
    none = np.zeros(len(devices))
    return loads.profile(none, none, 0, "copy")
