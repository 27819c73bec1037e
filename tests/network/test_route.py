"""Routes between devices."""

from __future__ import annotations

import numpy as np
import pytest

from desim.network.route import levels_climbed, route
from desim.network.topology import build_topology
from tests.network.build import fabric, system


def names(topology, source, destination):
    flow, link = route(topology, np.array([source]), np.array([destination]))
    assert (flow == 0).all()
    assert (np.diff(link) > 0).all()
    return [topology.name(one) for one in link]


@pytest.fixture(scope="module")
def rails():
    return build_topology(system(), 4096)


def test_inside_an_island(rails):
    assert names(rails, 3, 5) == ["nvlink_out[3]", "nvlink_in[5]"]


def test_to_itself(rails):
    assert names(rails, 3, 3) == []


def test_under_one_leaf(rails):
    assert names(rails, 3, 11) == ["nic_out[0.3]", "nic_in[1.3]"]


def test_to_another_rail_of_the_unit_changes_rail_first(rails):
    expected = ["nvlink_out[3]", "nvlink_in[5]", "nic_out[0.5]", "nic_in[1.5]"]
    assert names(rails, 3, 13) == expected


def test_to_another_rail_without_nvlink_goes_through_the_spine():
    topology = build_topology(system(intra_node="pcie", nvlink_domain=1), 512)
    assert names(topology, 3, 13) == [
        "nic_out[0.3]",
        "nic_in[1.5]",
        "leaf_up[su0.rail3]",
        "leaf_down[su0.rail5]",
    ]


def test_to_another_unit(rails):
    assert names(rails, 3, 256 + 3) == [
        "nic_out[0.3]",
        "nic_in[32.3]",
        "leaf_up[su0.rail3]",
        "leaf_down[su1.rail3]",
    ]


def test_to_another_pod(rails):
    assert names(rails, 0, 2048) == [
        "nic_out[0.0]",
        "nic_in[256.0]",
        "leaf_up[su0.rail0]",
        "leaf_down[su8.rail0]",
        "spine_up[2.0]",
        "spine_down[2.2]",
    ]


def test_levels_climbed(rails):
    source = np.zeros(6, np.int64)
    target = np.array([0, 7, 8, 9, 256, 2048])
    assert levels_climbed(rails, source, target).tolist() == [0, 0, 1, 1, 2, 3]


def test_fat_tree_puts_a_node_on_one_leaf():
    topology = build_topology(system(fabric=fabric(topology="fat_tree")), 512)
    # Radix 64: a leaf has 32 ports down, 4 nodes of 8 NICs.
    assert names(topology, 3, 31) == ["nic_out[0.3]", "nic_in[3.7]"]
    assert names(topology, 3, 32)[2:] == ["leaf_up[su0]", "leaf_down[su1]"]


def test_island_across_nodes_needs_no_nic():
    spec = system(devices_per_node=4, nics_per_node=4, nvlink_domain=72)
    topology = build_topology(spec, 144)
    assert names(topology, 0, 71) == ["nvlink_out[0]", "nvlink_in[71]"]
    assert names(topology, 0, 72)[0].startswith("nic_out")
