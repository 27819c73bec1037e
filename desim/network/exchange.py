"""Traffic of an exchange between all pairs, by counting, without listing the pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from desim.network.loads import weigh
from desim.network.route import relay_device

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from desim.network.loads import Loads
    from desim.network.topology import Topology


@dataclass(frozen=True, slots=True)
class Ends:
    """The ends of an exchange: x sends `scale x weight(x) x weight(y)` to y of another part.

    Ends exchange where `among` is equal; they are ordered by (among, device). Weights are whole
    numbers, so that counts beyond a pod are exact and nothing is left where nobody is.
    """

    topology: Topology
    among: NDArray[np.int64]
    group: NDArray[np.int64]
    part: NDArray[np.int64]
    device: NDArray[np.int64]
    weight: NDArray[np.float64]
    scale: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Relayed:
    """Bytes that arrive over NVLink at devices which send them on along their rail."""

    group: NDArray[np.int64]
    device: NDArray[np.int64]
    load: NDArray[np.float64]


class _Counts:
    """Weights that an end finds around it, other parts' only."""

    def __init__(self, ends: Ends) -> None:
        shape = ends.topology.shape
        self.ends = ends
        self.nic = shape.nic(ends.device)
        self.rail = self.nic % shape.rails
        self.unit = shape.unit(self.nic)
        self.all = self._others(_runs(ends.among), _runs(ends.among, ends.part))
        self.in_unit = _runs(ends.among, self.unit)
        self.in_part_unit = _runs(ends.among, ends.part, self.unit)
        self.near = self._others(self.in_unit, self.in_part_unit)
        if shape.leaves_per_unit == 1:
            self.same_leaf = self.near
        else:
            leaf = self.in_unit * shape.rails + self.rail
            part_leaf = self.in_part_unit * shape.rails + self.rail
            self.same_leaf = self._others(leaf, part_leaf)

    def beyond_pod(self, level: int) -> NDArray[np.float64]:
        """Weight outside an end's pod of a level."""
        if level == 1:
            return self.all - self.same_leaf
        pod = self.ends.topology.shape.pod(level, self.nic)
        among, part = self.ends.among, self.ends.part
        return self.all - self._others(_runs(among, pod), _runs(among, part, pod))

    def _others(self, region: NDArray[np.int64], own: NDArray[np.int64]) -> NDArray[np.float64]:
        """Weight in an end's region less that of its own part in it."""
        weight = self.ends.weight
        whole, mine = weigh(region, weight), weigh(own, weight)
        return whole[region] - mine[own]


def add_exchange(ends: Ends, loads: Loads, through: bool) -> tuple[NDArray[np.float64], Relayed]:
    """Load NICs and uplinks; return what ends send over NVLink to relays, and what arrives there.

    `through` lets traffic to another rail of the same unit change rail first (PXN).
    """
    topology = ends.topology
    counts = _Counts(ends)
    each = ends.weight * ends.scale
    beyond_leaf = counts.all - counts.near if through else counts.beyond_pod(1)
    sent = counts.all - (counts.near - counts.same_leaf) if through else counts.all
    loads.add(topology.start("nic_out"), ends.group, counts.nic, each * sent)
    loads.add(topology.start("nic_in"), ends.group, counts.nic, each * counts.all)
    for level in range(1, topology.shape.levels):
        beyond = beyond_leaf if level == 1 else counts.beyond_pod(level)
        pod = topology.shape.pod(level, counts.nic)
        for direction in ("up", "down"):
            first = topology.start_of_level(level, direction)
            loads.add(first, ends.group, pod, each * beyond)
    if not through:
        nobody = np.zeros(0, np.int64)
        return np.zeros(len(each)), Relayed(nobody, nobody, np.zeros(0))
    return each * (counts.near - counts.same_leaf), _relay(ends, counts, loads)


def _relay(ends: Ends, counts: _Counts, loads: Loads) -> Relayed:
    """Load the NICs of relays: a rail of a node carries what the other rails send to it."""
    topology, rails = ends.topology, ends.topology.shape.rails
    node = _runs(ends.among, ends.part, counts.nic // rails)
    first = np.flatnonzero(np.diff(node, prepend=-1))
    here = _by_rail(node, counts.rail, ends.weight, rails)
    senders = here.sum(axis=1, keepdims=True) - here
    receivers = _by_rail(counts.in_unit, counts.rail, ends.weight, rails)[counts.in_unit[first]]
    receivers -= _by_rail(counts.in_part_unit, counts.rail, ends.weight, rails)[
        counts.in_part_unit[first]
    ]
    load = senders * receivers * ends.scale[first][:, None]
    row, rail = np.nonzero(load)
    group, used = ends.group[first][row], load[row, rail]
    nic = counts.nic[first][row] // rails * rails + rail
    loads.add(topology.start("nic_out"), group, nic, used)
    return Relayed(group, relay_device(topology, nic), used)


def _by_rail(
    run: NDArray[np.int64], rail: NDArray[np.int64], weight: NDArray[np.float64], rails: int
) -> NDArray[np.float64]:
    """Weight of each run of ends by rail."""
    num_runs = int(run[-1]) + 1
    return weigh(run * rails + rail, weight, num_runs * rails).reshape(num_runs, rails)


def _runs(*columns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number the runs of neighbours that agree in all columns."""
    begins = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        begins[1:] |= column[1:] != column[:-1]
    return np.cumsum(begins)
