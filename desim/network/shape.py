"""Where devices, NICs, leaves and pods stand, as integers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from desim.errors import Mistake, SpecError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from desim.spec.hardware import System


@dataclass(frozen=True, slots=True)
class Shape:
    """The integer geometry of a system: which device stands where.

    A unit is the nodes whose NICs share leaves; an island is the devices that talk without a NIC
    (the NVLink domain where it holds a node at least, else the node). A rail is a NIC position in
    the node; more NICs than devices are pooled, so that a device has one.
    """

    num_devices: int
    devices_per_node: int
    num_nodes: int
    rails: int
    island: int
    sockets: int
    """Sockets of a node between which devices share a link; 1 where there is no such link."""
    local: Literal["nvlink", "pcie"]
    """What the devices of an island talk over."""
    nodes_per_unit: int
    leaves_per_unit: int
    """One leaf per rail, or one for all NICs."""
    levels: int
    """Switch levels, the leaves included."""
    units_per_pod: tuple[int, ...]
    """Units in a pod of level 2, 3, ... below the top level."""

    @property
    def num_units(self) -> int:
        """Units that the nodes fill, the last one possibly in part."""
        return -(-self.num_nodes // self.nodes_per_unit)

    @property
    def relays(self) -> bool:
        """Whether traffic to another rail of a unit changes rail over NVLink first (PXN).

        NCCL 2.12 and later: a device sends through the NIC of the device of its node that is on
        the destination's rail, so that the message crosses one leaf only.
        """
        return (
            self.leaves_per_unit > 1
            and self.levels > 1
            and self.local == "nvlink"
            and self.num_devices % self.devices_per_node == 0
        )

    def nic(self, device: NDArray[np.int64]) -> NDArray[np.int64]:
        """NIC that serves each device, numbered through the cluster."""
        node, place = device // self.devices_per_node, device % self.devices_per_node
        return node * self.rails + place * self.rails // self.devices_per_node

    def socket(self, device: NDArray[np.int64]) -> NDArray[np.int64]:
        """CPU socket that each device hangs on, numbered through the cluster."""
        return device * self.sockets // self.devices_per_node

    def unit(self, nic: NDArray[np.int64]) -> NDArray[np.int64]:
        """Unit of each NIC."""
        return nic // (self.rails * self.nodes_per_unit)

    def pod(self, level: int, nic: NDArray[np.int64]) -> NDArray[np.int64]:
        """Pod of each NIC at a level below the top; a pod of level 1 is a leaf."""
        unit = self.unit(nic)
        if level >= 2:
            return unit // self.units_per_pod[level - 2]
        if self.leaves_per_unit == 1:
            return unit
        return unit * self.rails + nic % self.rails

    def num_pods(self, level: int) -> int:
        """How many pods a level below the top has."""
        if level == 1:
            return self.num_units * self.leaves_per_unit
        return -(-self.num_units // self.units_per_pod[level - 2])


def shape_of(system: System, num_devices: int) -> Shape:
    """Return the geometry of `num_devices` devices of a system, counted from its first node."""
    per_node = system.devices_per_node
    domain = system.nvlink_domain
    if max(domain, per_node) % min(domain, per_node):
        rule = f"must divide or be a multiple of devices_per_node ({per_node})"
        raise SpecError([Mistake("cluster.system.nvlink_domain", rule, str(domain))])
    _require_mesh(system)
    if per_node % system.sockets:
        rule = f"must divide devices_per_node ({per_node})"
        raise SpecError([Mistake("cluster.system.sockets", rule, str(system.sockets))])
    joined = (
        domain >= per_node
        and domain > 1
        and system.intra_node != "pcie"
        and system.device.nvlink_bytes_per_s > 0
    )
    rails = min(system.nics_per_node, per_node)
    num_nodes = -(-num_devices // per_node)
    half = system.fabric.radix // 2
    levels = _levels(num_nodes * system.nics_per_node, system.fabric.radix)
    rail = system.fabric.topology == "rail"
    units_in_pod = max(1, half // rails) if rail else half
    return Shape(
        num_devices=num_devices,
        devices_per_node=per_node,
        num_nodes=num_nodes,
        rails=rails,
        island=domain if joined else per_node,
        sockets=1 if joined or system.socket_bytes_per_s is None else system.sockets,
        local="nvlink" if joined else "pcie",
        nodes_per_unit=half if rail else max(1, half // system.nics_per_node),
        leaves_per_unit=rails if rail else 1,
        levels=levels,
        units_per_pod=tuple(units_in_pod * half ** (level - 2) for level in range(2, levels)),
    )


def _require_mesh(system: System) -> None:
    """Refuse a table of links that does not describe a node; raises SpecError."""
    links, per_node = system.mesh_links, system.devices_per_node
    if links is None:
        return
    square = len(links) == per_node and all(len(row) == per_node for row in links)
    if not square or any(links[i][j] != links[j][i] for i in range(per_node) for j in range(i)):
        rule = f"must be {per_node} rows of {per_node} numbers, row i at j equal to row j at i"
        raise SpecError([Mistake("cluster.system.mesh_links", rule)])
    if len({sum(row) for row in links}) > 1:
        rule = "must give every device the same number of links, among which `nvlink` is divided"
        raise SpecError([Mistake("cluster.system.mesh_links", rule)])


def _levels(num_nics: int, radix: int) -> int:
    """Least number of switch levels of a folded Clos that holds the NICs.

    Switches below the top use half of their ports downward, those of the top all of them (Leiserson
    1985; Al-Fares et al. 2008): l levels hold radix x (radix / 2)^(l - 1).
    """
    levels, room = 1, radix
    while room < num_nics:
        levels, room = levels + 1, room * (radix // 2)
    return levels
