"""Pace: what keeps kernels from filling the links inside a node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from desim.network import mesh
from desim.network.loads import Pace

if TYPE_CHECKING:
    from desim.network.places import Places
    from desim.network.topology import Topology

#: Channels that NCCL opens per NIC: it doubles those that its search finds, one per NIC
#: (src/graph/connect.cc, ncclTopoPostset; NVIDIA/nccl issue 524). Four NICs: 8 (issue 514).
_CHANNELS_PER_NIC = 2


def ring_pace(places: Places, rounds: int) -> Pace:
    """The closing step of a ring kernel, and the part of a mesh that a group's rings use.

    The closing step takes the time of one block more than the wire carries.
    """
    system = places.topology.system
    measured = system.node_collectives
    return Pace(
        factor=mesh.factors(places, rounds) if _meshed(places) else 1.0,
        added=_block_s(places, measured.closing_step) if measured else 0.0,
    )


def message_pace(places: Places) -> Pace:
    """The closing step of an all-to-all: each rank copies its own block."""
    measured = places.topology.system.node_collectives
    return Pace(
        factor=mesh.factors(places, 1, messages=True) if _meshed(places) else 1.0,
        added=_block_s(places, measured.messages.closing_step) if measured else 0.0,
    )


def copy_pace(places: Places) -> Pace:
    """The links of a mesh that join a pair, for copies straight between members."""
    return Pace(mesh.factors(places, 1, messages=True) if _meshed(places) else 1.0)


def channel_seconds_per_byte(topology: Topology) -> tuple[float, float]:
    """Time per byte on one channel, inside a node or NVLink domain and between them.

    A channel has its share of what all channels of a kernel fill: the links of a device, its NIC.
    """
    system = topology.system
    held = system.device.communication
    channels = held.nvlink_sms if topology.shape.local == "nvlink" else held.message_sms
    local = topology.capacity_bytes_per_s[topology.start(f"{topology.shape.local}_out")]
    fabric = system.fabric
    nic_bytes_per_s = fabric.nic_bytes_per_s * fabric.efficiency
    share_s = max(channels, 1) / float(local)
    if held.channel_bytes_per_s is not None:
        share_s = max(share_s, 1 / held.channel_bytes_per_s)
    return share_s, _CHANNELS_PER_NIC / nic_bytes_per_s


def _meshed(places: Places) -> bool:
    return places.topology.system.mesh_links is not None and places.size > 1


def _block_s(places: Places, steps: float) -> float:
    """Seconds per byte of blocks of 1/n of the size, at the speed of the links."""
    system = places.topology.system
    return steps / (places.size * system.device.nvlink_bytes_per_s * system.nvlink_efficiency)
