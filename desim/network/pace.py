"""Pace: what keeps kernels from filling the links inside a node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from desim.network.loads import Pace

if TYPE_CHECKING:
    from desim.network.places import Places


def ring_pace(places: Places) -> Pace:
    """The closing step of a ring kernel: time of one block more than the wire carries."""
    measured = places.topology.system.node_collectives
    return Pace(added=_block_s(places, measured.closing_step)) if measured else Pace()


def message_pace(places: Places) -> Pace:
    """The closing step of an all-to-all: each rank copies its own block."""
    measured = places.topology.system.node_collectives
    return Pace(added=_block_s(places, measured.messages.closing_step)) if measured else Pace()


def _block_s(places: Places, steps: float) -> float:
    """Seconds per byte of blocks of 1/n of the size, at the speed of the links."""
    system = places.topology.system
    return steps / (places.size * system.device.nvlink_bytes_per_s * system.nvlink_efficiency)
