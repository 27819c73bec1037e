"""Profiles: how much of every byte of a collective each link carries."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from desim.network.protocols import Kernel, Protocol, protocols_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from desim.network.topology import Topology

#: A dense table is cheaper than a sort while it has at most this many cells per entry.
_DENSE_CELLS = 4

#: Kernels that move everything through their channels, as many as they hold multiprocessors.
_CHANNELLED = ("ring", "tree", "pat", "messages")


@dataclass(frozen=True, slots=True)
class Profile:
    """How one algorithm of one collective uses the network, for groups of equal size.

    Entry i says that group `group[i]` moves `load[i]` bytes over link `link[i]` per byte of the
    collective's size. Pairs (group, link) are unique and ascending.
    """

    group: NDArray[np.int64]
    link: NDArray[np.int64]
    load: NDArray[np.float64]
    near_s: NDArray[np.float64]
    """Latency of each group's steps inside nodes or NVLink domains, with the Simple protocol."""
    far_s: NDArray[np.float64]
    """The same of its steps between them."""
    near_seconds_per_byte: NDArray[np.float64]
    """Time per byte of each group inside nodes or NVLink domains, with the Simple protocol: the
    largest load over capacity, and what the kernel itself adds; 0 without load."""
    far_seconds_per_byte: NDArray[np.float64]
    """The same between them."""
    sms: int
    """Streaming multiprocessors that the kernel holds on each member."""
    protocols: tuple[Protocol, ...]
    """Protocols that the algorithm exists in."""
    relay: Relay | None = None
    """Hops that slices of a message pass one after the other, where each member passes on all."""

    @property
    def latency_s(self) -> NDArray[np.float64]:
        """Latency of all steps of each group, with the Simple protocol."""
        return self.near_s + self.far_s

    @property
    def seconds_per_byte(self) -> NDArray[np.float64]:
        """Time per byte of each group alone, with the Simple protocol; 0 without load."""
        return np.maximum(self.near_seconds_per_byte, self.far_seconds_per_byte)

    def protocol(self, name: str) -> Protocol:
        """The protocol of a name."""
        return next(protocol for protocol in self.protocols if protocol.name == name)

    @property
    def num_groups(self) -> int:
        """How many groups the profile describes."""
        return len(self.near_s)


@dataclass(frozen=True, slots=True)
class Relay:
    """Hops of each group's chain times the time per byte of a slice on one channel.

    `near_seconds_per_byte` of the hops inside nodes or NVLink domains, `far_` between them.
    """

    near_seconds_per_byte: NDArray[np.float64]
    far_seconds_per_byte: NDArray[np.float64]


@dataclass(slots=True)
class Loads:
    """Collects loads on links, kind by kind in the order of link numbers."""

    topology: Topology
    num_groups: int
    _chunks: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]] = field(
        default_factory=list
    )

    def add(
        self,
        first: int,
        group: NDArray[np.int64],
        index: NDArray[np.int64],
        load: NDArray[np.float64],
    ) -> None:
        """Add `load` of each group on links `first + index`; repeated pairs are summed."""
        used = load > 0
        if not used.any():
            return
        if not used.all():
            group, index, load = group[used], index[used], load[used]
        width = int(index.max()) + 1
        key, total = _summed(group * width + index, load, self.num_groups * width)
        self._chunks.append((key // width, first + key % width, total))

    def profile(
        self,
        near_s: NDArray[np.floating[Any]],
        far_s: NDArray[np.floating[Any]],
        sms: int,
        kernel: Kernel = "ring",
        pace: Pace | None = None,
    ) -> Profile:
        """Return the profile of everything added, for the protocols of a kind of kernel."""
        near, far = (_rounded(np.asarray(part, np.float64)) for part in (near_s, far_s))
        protocols = protocols_of(self.topology.system, kernel)
        if not self._chunks:
            none = np.zeros(0, np.int64)
            quiet = np.zeros(self.num_groups)
            return Profile(none, none, np.zeros(0), near, far, quiet, quiet, sms, protocols)
        group, link, load = (np.concatenate(column) for column in zip(*self._chunks, strict=True))
        num_links = self.topology.num_links
        key, load = _summed(group * num_links + link, load, self.num_groups * num_links)
        group, link, load = key // num_links, key % num_links, _rounded(load)
        local = link < self.topology.start("nic_out")
        inside = self._seconds(group[local], link[local], load[local])
        if pace is not None:
            inside = pace.applied(inside)
        if kernel in _CHANNELLED:
            inside = np.maximum(inside, self._channel_seconds(group, link, load, sms))
        outside = self._seconds(group[~local], link[~local], load[~local])
        return Profile(group, link, load, near, far, inside, outside, sms, protocols)

    def _channel_seconds(
        self,
        group: NDArray[np.int64],
        link: NDArray[np.int64],
        load: NDArray[np.float64],
        channels: int,
    ) -> NDArray[np.float64]:
        """Seconds per byte that a kernel's channels take for what goes over its device's links."""
        topology = self.topology
        rate = topology.system.device.communication.channel_bytes_per_s
        heaviest = np.zeros(self.num_groups)
        if rate is not None and channels > 0:
            local = topology.shape.local
            out, into = topology.start(f"{local}_out"), topology.start(f"{local}_in")
            own = (link >= out) & (link < 2 * into - out)
            np.maximum.at(heaviest, group[own], load[own] / (channels * rate))
        return heaviest

    def _seconds(
        self, group: NDArray[np.int64], link: NDArray[np.int64], load: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        seconds = np.zeros(self.num_groups)
        if not len(group):
            return seconds
        starts = np.flatnonzero(np.diff(group, prepend=-1))
        busy = load / self.topology.capacity_bytes_per_s[link]
        seconds[group[starts]] = np.maximum.reduceat(busy, starts)
        return seconds


@dataclass(frozen=True, slots=True)
class Pace:
    """What keeps a kernel from filling its links inside the node: other seconds per byte.

    `factor` multiplies those of the links of each group (a mesh of which a group's rings use only
    a part), `added` is what the kernel does besides (the closing step).
    """

    factor: NDArray[np.float64] | float = 1.0
    added: NDArray[np.float64] | float = 0.0

    def applied(self, seconds: NDArray[np.float64]) -> NDArray[np.float64]:
        """Seconds per byte at this pace; a group without load inside the node has none."""
        paced: NDArray[np.float64] = (seconds + self.added) * self.factor * (seconds > 0)
        return paced


def _rounded(value: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round to 40 of 53 bits, so that equal sums that were added in another order are equal.

    Ranks fold into one class only where their loads are the same number. Veltkamp's splitting
    (Dekker 1971).
    """
    far = value * (2.0**13 + 1)
    return far - (far - value)


def weigh(
    index: NDArray[np.int64], weight: NDArray[np.float64], count: int = 0
) -> NDArray[np.float64]:
    """Sum the weights of equal indices into a table of `count` places, or as many as needed."""
    return np.bincount(index, weight, count).astype(np.float64, copy=False)


def _summed(
    key: NDArray[np.int64], load: NDArray[np.float64], num_keys: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Sum the loads of equal keys; keys come back ascending."""
    rises = np.diff(key)
    if rises.size == 0 or rises.min() > 0:
        return key, load
    if num_keys <= _DENSE_CELLS * len(key):
        table = weigh(key, load, num_keys)
        found = np.flatnonzero(table)
        return found, table[found]
    key, load = _runs(key, load)
    if (np.diff(key) <= 0).any():
        # Stable sorting merges the ascending runs that the chunks are made of.
        order = np.argsort(key, kind="stable")
        key, load = _runs(key[order], load[order])
    return key, load


def _runs(
    key: NDArray[np.int64], load: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Sum neighbours with equal keys."""
    starts = np.flatnonzero(np.diff(key, prepend=-1))
    if len(starts) == len(key):
        return key, load
    return key[starts], np.add.reduceat(load, starts)
