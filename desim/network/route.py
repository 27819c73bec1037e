"""Routes: the links that a message between two devices crosses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from desim.network.topology import Topology

Crossing = tuple["NDArray[np.bool_]", "NDArray[np.int64]"]


def route(
    topology: Topology, source: NDArray[np.int64], destination: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (flow, link): every link that each flow crosses, flow by flow, links ascending.

    A flow inside an island crosses the local links of both devices and what joins their sockets
    where they talk over PCIe, one between islands both NICs
    and the uplinks of every pod that it leaves or enters. On a rail fabric it first changes to the
    destination's rail over NVLink where that keeps it under one leaf (PXN).
    """
    crossings = _crossings(topology, source, destination)
    used = np.stack([mask for mask, _ in crossings], axis=1)
    links = np.stack([link for _, link in crossings], axis=1)
    return np.nonzero(used)[0], links[used]


def weights(topology: Topology, link: NDArray[np.int64]) -> NDArray[np.float64]:
    """Occupancy of each link of a route per byte of a message: more than 1 where messages between
    devices reach less of the PCIe bandwidth than host copies do."""
    local = topology.start("pcie_out") <= link
    local &= link < topology.start("socket_out")
    return np.where(local, peer_weight(topology), 1.0)


def peer_weight(topology: Topology) -> float:
    """Occupancy of a device's local link per byte of a message."""
    system = topology.system
    if topology.shape.local != "pcie" or system.peer_efficiency is None:
        return 1.0
    return system.pcie_efficiency / system.peer_efficiency


def levels_climbed(
    topology: Topology, source: NDArray[np.int64], destination: NDArray[np.int64]
) -> NDArray[np.int8]:
    """Switch levels between two devices: 0 inside an island, 1 under one leaf, 2, ..."""
    shape = topology.shape
    source_nic, target_nic = shape.nic(source), shape.nic(destination)
    climbed = np.ones(len(source), np.int8)
    for level in range(1, shape.levels):
        climbed += _apart(topology, level, source_nic, target_nic)
    climbed[source // shape.island == destination // shape.island] = 0
    return climbed


def _apart(
    topology: Topology, level: int, source_nic: NDArray[np.int64], target_nic: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Whether a flow has to leave its pod of a level."""
    shape = topology.shape
    if level == 1 and shape.relays:
        source_pod, target_pod = shape.unit(source_nic), shape.unit(target_nic)
    else:
        source_pod, target_pod = shape.pod(level, source_nic), shape.pod(level, target_nic)
    apart: NDArray[np.bool_] = source_pod != target_pod
    return apart


def _crossings(
    topology: Topology, source: NDArray[np.int64], destination: NDArray[np.int64]
) -> list[Crossing]:
    """Which flows cross a link of each kind and which link, in the order of link numbers."""
    shape = topology.shape
    local = (source // shape.island == destination // shape.island) & (source != destination)
    remote = source // shape.island != destination // shape.island
    sender, nic_in = shape.nic(source), shape.nic(destination)
    into, arrives = destination, local
    leaves = local
    nic_out = sender
    if shape.relays:
        relayed = remote & (sender % shape.rails != nic_in % shape.rails)
        relayed &= shape.unit(sender) == shape.unit(nic_in)
        nic_out = np.where(relayed, sender - sender % shape.rails + nic_in % shape.rails, sender)
        into = np.where(relayed, relay_device(topology, nic_out), destination)
        leaves = arrives = local | relayed
    found = [
        (leaves, topology.start(f"{shape.local}_out") + source),
        (arrives, topology.start(f"{shape.local}_in") + into),
    ]
    if shape.sockets > 1:
        socket_out, socket_in = shape.socket(source), shape.socket(destination)
        apart = local & (socket_out != socket_in)
        found.append((apart, topology.start("socket_out") + socket_out))
        found.append((apart, topology.start("socket_in") + socket_in))
    found += [
        (remote, topology.start("nic_out") + nic_out),
        (remote, topology.start("nic_in") + nic_in),
    ]
    climbs = []
    for level in range(1, shape.levels):
        up, down = shape.pod(level, nic_out), shape.pod(level, nic_in)
        away = remote & (up != down)
        climbs.append((away, topology.start_of_level(level, "up") + up))
        climbs.append((away, topology.start_of_level(level, "down") + down))
    # Leaf up, leaf down, then all spine up, then all spine down: the order of link numbers.
    return found + climbs[:2] + climbs[2::2] + climbs[3::2]


def relay_device(topology: Topology, nic: NDArray[np.int64]) -> NDArray[np.int64]:
    """First device that each NIC serves."""
    shape = topology.shape
    node, rail = nic // shape.rails, nic % shape.rails
    return node * shape.devices_per_node - (-rail * shape.devices_per_node // shape.rails)
