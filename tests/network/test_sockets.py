"""Devices that talk over PCIe: what joins the sockets of a node is shared by all that cross it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from desim.errors import SpecError
from desim.network.profile import collective_profile, send_profile
from desim.network.topology import LINK_KINDS, build_topology
from tests.jobs import job
from tests.network.build import system

PEER, SOCKET = 0.7 * 64e9, 16e9


def pcie(**changes: Any) -> Any:
    fields = {
        "intra_node": "pcie",
        "nvlink_domain": 1,
        "pcie_efficiency": 0.85,
        "peer_efficiency": 0.7,
        "sockets": 2,
        "socket_bandwidth": "16 GB/s",
    }
    return system(**{**fields, **changes})


def together_bytes_per_s(spec: Any, groups: list[list[int]], collective: str, name: str) -> float:
    """Bus bandwidth (nccl-tests PERFORMANCE.md) of groups that run at once, one load over all."""
    topology = build_topology(spec, 8)
    profile = collective_profile(topology, np.array(groups), collective, name)
    load = np.bincount(profile.link, profile.load, topology.num_links)
    seconds = (load / topology.capacity_bytes_per_s).max()
    n = len(groups[0])
    rounds = 2 if collective == "all_reduce" else 1
    return rounds * (n - 1) / n / seconds


NEIGHBOURS = [[0, 1], [2, 3], [4, 5], [6, 7]]
QUADS = [[0, 1, 2, 3], [4, 5, 6, 7]]
ALL = [list(range(8))]
STRIDED = [[0, 4], [1, 5], [2, 6], [3, 7]]
HALVES = [[0, 2, 4, 6], [1, 3, 5, 7]]


@pytest.mark.parametrize(
    ("groups", "collective", "name", "expected"),
    [
        (NEIGHBOURS, "all_reduce", "ring", PEER),
        (QUADS, "all_reduce", "ring", PEER),
        (ALL, "all_reduce", "ring", SOCKET),
        (ALL, "all_gather", "ring", SOCKET),
        (STRIDED, "all_reduce", "ring", SOCKET / 4),
        (HALVES, "all_reduce", "ring", SOCKET / 2),
        (HALVES, "reduce_scatter", "ring", SOCKET / 2),
        # Each of 4 devices sends 4 of 8 parts across.
        (ALL, "all_to_all", "pairwise", SOCKET / 2 * 7 / 8),
    ],
)
def test_groups_across_sockets_share_what_joins_them(
    groups: list[list[int]], collective: str, name: str, expected: float
) -> None:
    reached = together_bytes_per_s(pcie(), groups, collective, name)
    assert reached == pytest.approx(expected)


@pytest.mark.parametrize(
    ("groups", "collective", "measured", "within"),
    [
        (NEIGHBOURS, "all_reduce", 22.3, 0.01),
        (QUADS, "all_reduce", 22.3, 0.01),
        (ALL, "all_reduce", 13.5, 0.2),
        (ALL, "all_gather", 14.5, 0.2),
        (ALL, "reduce_scatter", 11.9, 0.4),
        (ALL, "all_to_all", 8.9, 0.25),
        (STRIDED, "all_reduce", 4.2, 0.1),
        (HALVES, "all_reduce", 7.85, 0.1),
    ],
)
def test_one_constant_gives_what_was_set_by_hand(
    groups: list[list[int]], collective: str, measured: float, within: float
) -> None:
    """SimuMax's configs/system/a100_pcie.json, GB/s: one figure per kind of group."""
    spec = job(cluster={"system": "a100_pcie_80", "devices": 8}).cluster.system
    name = "pairwise" if collective == "all_to_all" else "ring"
    reached = together_bytes_per_s(spec, groups, collective, name) / 1e9
    assert reached == pytest.approx(measured, rel=within)


def test_messages_cross_where_their_ends_are_apart() -> None:
    topology = build_topology(pcie(), 8)
    profile = send_profile(topology, np.array([0, 3]), np.array([3, 4]))
    kinds = [LINK_KINDS[kind] for kind in topology.kind[profile.link]]
    near = ["pcie_out", "pcie_in"]
    assert kinds == [*near, *near, "socket_out", "socket_in"]
    assert profile.seconds_per_byte == pytest.approx([1 / PEER, 1 / SOCKET])
    assert topology.name(int(profile.link[-1])) == "socket_in[0.1]"


def test_sockets_have_equal_parts() -> None:
    with pytest.raises(SpecError, match="must divide devices_per_node"):
        build_topology(pcie(sockets=3), 8)
    assert not (build_topology(system(sockets=2), 8).kind == LINK_KINDS.index("socket_out")).any()
