"""The hybrid cube mesh of a DGX-1: closed forms of what its groups can build."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from desim.errors import SpecError
from desim.network.mesh import chained, rings
from desim.network.profile import collective_profile, send_profile
from desim.network.topology import build_topology
from tests.network.build import system
from tests.network.test_measured import Node, sweep
from tests.network.test_measured import system as named

DGX1 = named("dgx_v100_edr")
LINK = DGX1.device.nvlink_bytes_per_s * DGX1.nvlink_efficiency / 6


def alone(members, collective="all_reduce", algorithm="ring"):
    topology = build_topology(DGX1, 8)
    return collective_profile(topology, np.array([members]), collective, algorithm)


@pytest.mark.parametrize(("count", "number"), [(2, 1), (3, 2), (4, 4), (6, 2), (7, 4), (8, 6)])
def test_rings_of_the_first_devices(count, number):
    """As many as the measured bandwidth shows; each ring carries 2 (n - 1) / n over one link."""
    members = tuple(range(count))
    assert rings(DGX1.mesh_links, members) == number
    expected = 2 * (count - 1) / count / (number * LINK)
    assert alone(members).seconds_per_byte[0] == pytest.approx(expected)


def test_five_devices_have_a_chain_but_no_ring():
    """Device 4 meets only device 0: the whole size goes up and down one link."""
    members = tuple(range(5))
    assert rings(DGX1.mesh_links, members) == 0
    assert chained(DGX1.mesh_links, members)
    assert alone(members).seconds_per_byte[0] == pytest.approx(1 / LINK)
    slow = alone(members, "all_gather").seconds_per_byte[0]
    pcie = DGX1.device.pcie_bytes_per_s * DGX1.pcie_efficiency
    assert slow == pytest.approx(4 / 5 / pcie)


def test_no_more_rings_than_the_least_joined_member_has_links():
    for members in (m for n in range(3, 9) for m in combinations(range(8), n)):
        least = min(sum(DGX1.mesh_links[a][b] for b in members) for a in members)
        assert rings(DGX1.mesh_links, members) <= least


def test_a_message_uses_the_links_of_its_pair():
    topology = build_topology(DGX1, 8)
    profile = send_profile(topology, np.array([0, 0, 0]), np.array([1, 3, 5]))
    pcie = DGX1.device.pcie_bytes_per_s * DGX1.pcie_efficiency
    np.testing.assert_allclose(profile.seconds_per_byte, [1 / LINK, 1 / (2 * LINK), 1 / pcie])


def test_close_to_the_measured_sweep():
    error = Node("dgx_v100_edr").errors(sweep("v100"))
    assert np.median(np.abs(error)) < 0.03
    assert abs(np.median(error)) < 0.02


def test_links_that_are_not_a_mesh_are_refused():
    for links in (((0, 1), (1, 0)), tuple((1,) * 7 + (0,) for _ in range(8))):
        spec = system(intra_node="mesh", mesh_links=links)
        with pytest.raises(SpecError, match="mesh_links"):
            build_topology(spec, 8)


@pytest.mark.parametrize(("size", "number"), [(3, 2), (4, 2), (5, 4), (6, 4), (7, 6), (8, 6)])
def test_a_whole_mesh_has_the_rings_of_a_complete_graph(size: int, number: int) -> None:
    """K_n holds (n - 1) // 2 cycles through all its vertices that share no edge (Walecki)."""
    links = tuple(tuple(int(i != j) for j in range(size)) for i in range(size))
    assert rings(links, tuple(range(size))) == number
