"""A mesh of NVLinks (DGX-1): what a group of its devices can build of it.

NCCL joins the members of a group by as many rings as their own links allow; links to devices that
are not members are of no use to it. Every ring leaves a device by another link.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from itertools import combinations, permutations
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from desim.network.places import Places
    from desim.spec.hardware import System

Links = tuple[tuple[int, ...], ...]
_Edge = tuple[int, int]


@lru_cache(maxsize=1024)
def rings(links: Links, members: tuple[int, ...]) -> int:
    """Most rings through all members that share no link; both directions of a ring count.

    `links[i][j]` is how many links join devices i and j. Two members have a ring per link.
    """
    if len(members) == 2:
        return links[members[0]][members[1]]
    free = {(a, b): links[a][b] for a, b in combinations(members, 2)}
    return 2 * _most(_cycles(links, members), free)


@lru_cache(maxsize=1024)
def chained(links: Links, members: tuple[int, ...]) -> bool:
    """Whether a chain of links visits all members."""
    return any(
        all(links[a][b] for a, b in zip(order, order[1:], strict=False))
        for order in permutations(members)
        if order[0] < order[-1]
    )


def _cycles(links: Links, members: tuple[int, ...]) -> list[list[_Edge]]:
    """Edges of every cycle through all members, each cycle once."""
    first, *rest = members
    found = []
    for order in permutations(rest):
        if order[0] < order[-1]:
            around = (first, *order, first)
            steps = list(zip(around, around[1:], strict=False))
            if all(links[a][b] for a, b in steps):
                found.append([(min(step), max(step)) for step in steps])
    return found


def _most(cycles: list[list[_Edge]], free: dict[_Edge, int]) -> int:
    """Most cycles that fit into the free links together.

    Every cycle takes two links of each member: half of the fewest ends the search.
    """
    bound = _fewest_links(free) // 2
    most = 0
    for index, cycle in enumerate(cycles):
        if most == bound:
            break
        if all(free[edge] for edge in cycle):
            left = dict(free)
            for edge in cycle:
                left[edge] -= 1
            most = max(most, 1 + _most(cycles[index:], left))
    return most


def _fewest_links(free: dict[_Edge, int]) -> int:
    """Free links of the member that has the fewest."""
    ends: Counter[int] = Counter()
    for edge, number in free.items():
        for member in edge:
            ends[member] += number
    return min(ends.values())


def ring_factor(system: System, members: tuple[int, ...], rounds: int) -> float:
    """Time of a ring on all links of a device, over that on those of the group's own rings.

    Where no ring exists NCCL has one chain for an all-reduce (2 rounds), which carries the whole
    size up and down one link; other collectives go through the hosts.
    """
    links = system.mesh_links
    assert links is not None, "a mesh states its links"
    total, count = sum(links[0]), len(members)
    number = rings(links, members)
    if number:
        return total / number
    if rounds == 2 and chained(links, members):
        return total * count / (2 * (count - 1))
    return _host_factor(system)


def message_factor(system: System, members: tuple[int, ...]) -> float:
    """The same of an all-to-all: every pair has its own links, or the way through the hosts."""
    links = system.mesh_links
    assert links is not None, "a mesh states its links"
    pairs = [links[a][b] for a, b in permutations(members, 2)]
    alone = max(sum(not links[a][b] for b in members if a != b) for a in members)
    slowest = max(1 / number for number in pairs if number) if any(pairs) else 0.0
    total, peers = sum(links[0]), len(members) - 1
    return max(slowest * total, alone * _host_factor(system)) / peers


def factors(places: Places, rounds: int, messages: bool = False) -> NDArray[np.float64]:
    """Factor of each group: that of its slowest part of several members."""
    system = places.topology.system
    per_node = places.topology.shape.island
    bit = np.left_shift(1, places.member % per_node)
    mask = np.bitwise_or.reduceat(bit, places.part_start)
    kinds, of = np.unique(mask, return_inverse=True)
    by_kind = np.ones(len(kinds))
    for number, kind in enumerate(kinds.tolist()):
        members = tuple(i for i in range(per_node) if kind >> i & 1)
        if len(members) > 1:
            by_kind[number] = (
                message_factor(system, members)
                if messages
                else ring_factor(system, members, rounds)
            )
    slowest: NDArray[np.float64] = np.maximum.reduceat(by_kind[of], places.first_part)
    return slowest


def pair_factor(
    system: System, source: NDArray[np.int64], destination: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Time of a message on all links of a device, over that on the links of a pair of one node."""
    per_node = system.devices_per_node
    number = np.array(system.mesh_links)[source % per_node, destination % per_node]
    total = sum(system.mesh_links[0]) if system.mesh_links else 0
    through_host = np.full(len(number), _host_factor(system))
    factor: NDArray[np.float64] = np.divide(total, number, out=through_host, where=number > 0)
    return factor


def _host_factor(system: System) -> float:
    nvlink = system.device.nvlink_bytes_per_s * system.nvlink_efficiency
    return nvlink / (system.device.pcie_bytes_per_s * system.pcie_efficiency)
