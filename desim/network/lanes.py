"""Lanes: the parallel paths on which a collective goes from island to island, and their traffic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from desim.network.loads import weigh

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from desim.network.loads import Loads
    from desim.network.places import Places


@dataclass(frozen=True, slots=True)
class Lanes:
    """The lanes of groups: one per member of a group's largest part, each through every part.

    NCCL builds a ring or tree per NIC that the members of a node use, and every one of them carries
    an equal share of the bytes. In a smaller part some members serve several lanes. Lanes stay on
    their rail where the parts hold the same rails. Arrays have an entry per (part, lane).
    """

    places: Places
    group: NDArray[np.int64]
    device: NDArray[np.int64]
    nic: NDArray[np.int64]
    position: NDArray[np.int64]
    """Place of the part in its group."""
    width: NDArray[np.int64]
    """Lanes of the group."""
    lane: NDArray[np.int64]
    """Number of the lane in its group."""
    length: NDArray[np.int64]
    """Parts of the group."""
    pods: tuple[NDArray[np.int64], ...]
    """Pod of the NIC on every level below the top."""

    @property
    def share(self) -> NDArray[np.float64]:
        """Share of the group's bytes that one lane carries."""
        return np.reciprocal(self.width.astype(np.float64))

    def shifted(self, distance: int | NDArray[np.int64]) -> NDArray[np.int64]:
        """Entry that stands `distance` parts further on the same lane, round the group."""
        onward = (self.position + distance) % self.length
        return self.at(onward)

    def at(self, position: NDArray[np.int64]) -> NDArray[np.int64]:
        """Entry on the same lane at another place in the group."""
        return np.arange(len(self.group)) + (position - self.position) * self.width

    def hop_s(self, target: NDArray[np.int64]) -> NDArray[np.float64]:
        """Latency of one step from every entry to its target."""
        fabric = self.places.topology.system.fabric
        above = np.zeros(len(target))
        for pod in self.pods:
            above += pod != pod[target]
        return fabric.latency_s + fabric.hop_latency_s * above


def lanes_of(places: Places) -> Lanes:
    """Lay the lanes of groups."""
    shape = places.topology.shape
    width_of_part = places.widest[places.part_group]
    part = np.repeat(np.arange(len(width_of_part)), width_of_part)
    first = np.cumsum(width_of_part) - width_of_part
    lane = np.arange(len(part)) - first[part]
    width = width_of_part[part]
    member = places.part_start[part] + lane * places.part_size[part] // width
    device = places.member[member]
    nic = shape.nic(device)
    group = places.part_group[part]
    return Lanes(
        places=places,
        group=group,
        device=device,
        nic=nic,
        position=part - places.first_part[group],
        width=width,
        lane=lane,
        length=places.num_parts[group],
        pods=tuple(shape.pod(level, nic) for level in range(1, shape.levels)),
    )


class Traffic:
    """Bytes that lanes send to each other, gathered on NICs and on the uplinks of pods."""

    def __init__(self, lanes: Lanes) -> None:
        """Start with no traffic on `lanes`."""
        self.lanes = lanes
        count = len(lanes.group)
        # Row 0: NICs; row l: uplinks of the pods of level l.
        self.out = np.zeros((1 + len(lanes.pods), count))
        self.into = np.zeros((1 + len(lanes.pods), count))

    def send(self, target: NDArray[np.int64], weight: NDArray[np.float64]) -> None:
        """Send `weight` from every entry to its target."""
        for row, sent in self._rows(target, weight):
            self.out[row] += sent
            self.into[row] += weigh(target, sent, len(sent))

    def exchange(self, target: NDArray[np.int64], weight: NDArray[np.float64]) -> None:
        """Send `weight` from every entry to its target and as much back."""
        for row, sent in self._rows(target, weight):
            both = sent + weigh(target, sent, len(sent))
            self.out[row] += both
            self.into[row] += both

    def _rows(
        self, target: NDArray[np.int64], weight: NDArray[np.float64]
    ) -> list[tuple[int, NDArray[np.float64]]]:
        rows = [(0, weight)]
        for level, pod in enumerate(self.lanes.pods, 1):
            away = pod != pod[target]
            if away.any():
                rows.append((level, weight * away))
        return rows

    def add_to(self, loads: Loads) -> None:
        """Load NICs and uplinks with the traffic."""
        lanes, topology = self.lanes, self.lanes.places.topology
        loads.add(topology.start("nic_out"), lanes.group, lanes.nic, self.out[0])
        loads.add(topology.start("nic_in"), lanes.group, lanes.nic, self.into[0])
        for level, pod in enumerate(lanes.pods, 1):
            up = topology.start_of_level(level, "up")
            down = topology.start_of_level(level, "down")
            loads.add(up, lanes.group, pod, self.out[level])
            loads.add(down, lanes.group, pod, self.into[level])
