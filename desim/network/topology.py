"""The links of a cluster: their kinds, capacities and names."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from desim.network.names import link_name, matching
from desim.network.shape import Shape, shape_of

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from desim.spec.hardware import System

LINK_KINDS = (
    "nvlink_out",
    "nvlink_in",
    "pcie_out",
    "pcie_in",
    "socket_out",
    "socket_in",
    "nic_out",
    "nic_in",
    "leaf_up",
    "leaf_down",
    "spine_up",
    "spine_down",
    "host_memory",
)


@dataclass(frozen=True, slots=True)
class Topology:
    """Every link of a cluster, numbered kind by kind in the order of `LINK_KINDS`.

    Capacities are usable ones: nominal bandwidth times the efficiency of the system or fabric. The
    uplinks of a leaf or pod are one pooled link per direction (adaptive routing). An NVLink mesh
    (DGX-1V) is a link of each device's aggregate bandwidth; `desim.network.mesh` says which part of
    it a group can use. Links that no route needs are absent: NVLink where nodes talk over PCIe,
    leaf uplinks where one switch holds all NICs.
    """

    system: System
    num_devices: int
    kind: NDArray[np.int8]
    """Index in `LINK_KINDS` of each link."""
    capacity_bytes_per_s: NDArray[np.float64]
    shape: Shape
    first: tuple[int, ...]
    """First link of each kind, and the number of links at the end."""

    @property
    def num_links(self) -> int:
        """How many links the cluster has."""
        return self.first[-1]

    def start(self, kind: str) -> int:
        """First link of a kind; link `start + i` is the one of device, NIC, leaf or node `i`."""
        return self.first[LINK_KINDS.index(kind)]

    def start_of_level(self, level: int, direction: str) -> int:
        """First link that leaves (`up`) or enters (`down`) the pods of a level below the top."""
        if level == 1:
            return self.start(f"leaf_{direction}")
        below = sum(self.shape.num_pods(lower) for lower in range(2, level))
        return self.start(f"spine_{direction}") + below

    def name(self, link: int) -> str:
        """Name of a link, such as ``nvlink_out[17]`` (device) or ``leaf_up[su0.rail3]``."""
        kind = int(self.kind[link])
        return link_name(self.shape, LINK_KINDS[kind], link - self.first[kind])

    def links_matching(self, pattern: str) -> NDArray[np.int64]:
        """Links whose name fits a pattern with ``*`` and ``?``, or of an alias such as ``rail3``.

        ``rail3`` stands for all NICs and leaf links of rail 3. Empty where nothing fits.
        """
        counts = [self.first[i + 1] - self.first[i] for i in range(len(LINK_KINDS))]
        found = matching(self.shape, dict(zip(LINK_KINDS, counts, strict=True)), pattern)
        parts = [self.start(kind) + index for kind, index in found]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def degrade(self, factors: ArrayLike) -> Topology:
        """Return the same links with their capacities multiplied by `factors`."""
        capacity = self.capacity_bytes_per_s * np.asarray(factors, np.float64)
        return replace(self, capacity_bytes_per_s=capacity)


def build_topology(system: System, num_devices: int) -> Topology:
    """Build the links of the first `num_devices` devices of a system."""
    shape = shape_of(system, num_devices)
    by_kind = _capacities(system, shape)
    counts = np.array([len(by_kind[kind]) for kind in LINK_KINDS])
    return Topology(
        system=system,
        num_devices=num_devices,
        kind=np.repeat(np.arange(len(LINK_KINDS), dtype=np.int8), counts),
        capacity_bytes_per_s=np.concatenate([by_kind[kind] for kind in LINK_KINDS]),
        shape=shape,
        first=(0, *np.cumsum(counts).tolist()),
    )


def _capacities(system: System, shape: Shape) -> dict[str, NDArray[np.float64]]:
    """Usable capacity of every link of every kind."""
    device, fabric = system.device, system.fabric
    linked = shape.num_devices if shape.local == "nvlink" else 0
    nvlink = np.full(linked, device.nvlink_bytes_per_s * system.nvlink_efficiency)
    pcie = np.full(shape.num_devices, device.pcie_bytes_per_s * system.pcie_efficiency)
    crossed = shape.num_nodes * shape.sockets if shape.sockets > 1 else 0
    socket = np.full(crossed, system.socket_bytes_per_s or 0.0)
    pooled = system.nics_per_node / shape.rails
    nic_bytes_per_s = fabric.nic_bytes_per_s * fabric.efficiency * pooled
    nics = np.arange(shape.num_nodes * shape.rails)
    nic = np.full(len(nics), nic_bytes_per_s)
    levels = [
        _total(shape.pod(level, nics), nic / fabric.oversubscription)
        for level in range(1, shape.levels)
    ]
    leaf = levels[0] if levels else np.zeros(0)
    spine = np.concatenate(levels[1:]) if len(levels) > 1 else np.zeros(0)
    return {
        "nvlink_out": nvlink,
        "nvlink_in": nvlink,
        "pcie_out": pcie,
        "pcie_in": pcie,
        "socket_out": socket,
        "socket_in": socket,
        "nic_out": nic,
        "nic_in": nic,
        "leaf_up": leaf,
        "leaf_down": leaf,
        "spine_up": spine,
        "spine_down": spine,
        "host_memory": np.full(shape.num_nodes, system.host_memory_bytes_per_s),
    }


def _total(pod: NDArray[np.int64], nic_bytes_per_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bandwidth of the NICs below each pod."""
    return np.bincount(pod, nic_bytes_per_s).astype(np.float64, copy=False)
