"""Where the members of groups stand: islands, and the lanes that run from island to island."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from desim.network.route import peer_weight

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from desim.network.loads import Loads
    from desim.network.topology import Topology


@dataclass(frozen=True, slots=True)
class Places:
    """The members of groups of equal size, by island.

    A part is the members of one group in one island; parts are numbered group by group in the order
    of their devices. A group is a set: the order in which its members are written does not matter.
    """

    topology: Topology
    num_groups: int
    size: int
    """Members of each group."""
    member: NDArray[np.int64]
    """Device of each member, group by group, ascending in a group."""
    member_group: NDArray[np.int64]
    member_part: NDArray[np.int64]
    part_group: NDArray[np.int64]
    part_start: NDArray[np.int64]
    """First member of each part."""
    part_size: NDArray[np.int64]
    first_part: NDArray[np.int64]
    """First part of each group."""
    num_parts: NDArray[np.int64]
    """Parts of each group."""
    widest: NDArray[np.int64]
    """Members of the largest part of each group."""

    @property
    def alone(self) -> bool:
        """Whether every group stays inside one island."""
        return len(self.part_group) == self.num_groups

    def sms(self) -> int:
        """Streaming multiprocessors that a collective's kernel holds on each member."""
        held = self.topology.system.device.communication
        if self.size == 1:
            return 0
        return held.nvlink_sms if self.alone else held.network_sms

    def add_local(self, loads: Loads, out: NDArray[np.float64], into: NDArray[np.float64]) -> None:
        """Load the island links of each member with its `out` and `into`."""
        local, weight = self.topology.shape.local, peer_weight(self.topology)
        loads.add(self.topology.start(f"{local}_out"), self.member_group, self.member, out * weight)
        loads.add(self.topology.start(f"{local}_in"), self.member_group, self.member, into * weight)

    def add_ring_crossings(self, loads: Loads, hop: NDArray[np.float64]) -> None:
        """Load the links between sockets with the bytes of a hop of each part's ring or chain.

        A ring visits each socket once: one hop leads in and one out.
        """
        if self.topology.shape.sockets > 1:
            part, socket, _ = self._on_sockets()
            self._add_crossings(loads, part, socket, hop[part])

    def add_message_crossings(self, loads: Loads, message: NDArray[np.float64]) -> None:
        """Load them with the messages of each part that every member sends to every other."""
        if self.topology.shape.sockets > 1:
            part, socket, members = self._on_sockets()
            others = self.part_size[part] - members
            self._add_crossings(loads, part, socket, message[part] * members * others)

    def _on_sockets(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Part, socket and members of each socket on which members of a part stand."""
        socket = self.topology.shape.socket(self.member)
        begins = (np.diff(self.member_part, prepend=-1) != 0) | (np.diff(socket, prepend=-1) != 0)
        first = np.flatnonzero(begins)
        members = np.diff(first, append=len(self.member))
        return self.member_part[first], socket[first], members

    def _add_crossings(
        self,
        loads: Loads,
        part: NDArray[np.int64],
        socket: NDArray[np.int64],
        load: NDArray[np.float64],
    ) -> None:
        spanned = np.bincount(part)[part] > 1
        for kind in ("socket_out", "socket_in"):
            start = self.topology.start(kind)
            loads.add(start, self.part_group[part], socket, load * spanned)

    def per_member(self, by_part: NDArray[np.float64]) -> NDArray[np.float64]:
        """Give every member the value of its part."""
        return by_part[self.member_part]


def places_of(topology: Topology, members: NDArray[np.int64]) -> Places:
    """Find the islands of groups; `members` has a row of devices per group."""
    rows = np.ascontiguousarray(members, np.int64)
    num_groups, size = rows.shape
    if size > 1 and (np.diff(rows, axis=1) <= 0).any():
        rows = np.sort(rows, axis=1)
        assert (np.diff(rows, axis=1) > 0).all(), "a device stands twice in one group"
    island = rows // topology.shape.island
    begins = np.ones(rows.shape, np.bool_)
    begins[:, 1:] = island[:, 1:] != island[:, :-1]
    part_start = np.flatnonzero(begins)
    part_group = part_start // size
    part_size = np.diff(part_start, append=rows.size)
    num_parts = np.bincount(part_group, minlength=num_groups)
    first_part = np.cumsum(num_parts) - num_parts
    return Places(
        topology=topology,
        num_groups=num_groups,
        size=size,
        member=rows.ravel(),
        member_group=np.repeat(np.arange(num_groups), size),
        member_part=np.repeat(np.arange(len(part_start)), part_size),
        part_group=part_group,
        part_start=part_start,
        part_size=part_size,
        first_part=first_part,
        num_parts=num_parts,
        widest=np.maximum.reduceat(part_size, first_part),
    )
