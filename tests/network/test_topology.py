"""Links, capacities, levels and names."""

from __future__ import annotations

import numpy as np
import pytest

from desim.errors import SpecError
from desim.network.topology import LINK_KINDS, build_topology
from tests.network.build import device, fabric, system

NIC = 50e9


def count(topology, kind):
    return int((topology.kind == LINK_KINDS.index(kind)).sum())


def test_one_switch_needs_no_uplinks():
    topology = build_topology(system(), 64)
    assert topology.shape.levels == 1
    assert count(topology, "leaf_up") == 0
    assert count(topology, "nic_out") == 64


def test_two_levels_have_one_leaf_per_unit_and_rail():
    # 64 nodes x 8 NICs = 512 <= 64^2 / 2: two units of 32 nodes, eight rails each.
    topology = build_topology(system(), 512)
    assert topology.shape.levels == 2
    assert count(topology, "leaf_up") == 16
    assert count(topology, "spine_up") == 0
    leaf = topology.start("leaf_up")
    assert topology.capacity_bytes_per_s[leaf] == pytest.approx(32 * NIC)


@pytest.mark.parametrize(
    ("nics", "levels"), [(64, 1), (72, 2), (2048, 2), (2056, 3), (65536, 3), (65544, 4)]
)
def test_levels_are_the_least_that_hold_the_nics(nics, levels):
    assert build_topology(system(), nics).shape.levels == levels


def test_pods_carry_what_is_below_them():
    topology = build_topology(system(fabric=fabric(oversubscription=2.0)), 4096)
    assert topology.shape.levels == 3
    # A pod of level 2 holds 32 leaves: the 8 rails of 4 units.
    assert count(topology, "spine_up") == 4
    up = topology.capacity_bytes_per_s[topology.start("spine_up")]
    assert up == pytest.approx(1024 * NIC / 2)


def test_capacity_is_the_usable_share():
    spec = system(nvlink_efficiency=0.8, fabric=fabric(efficiency=0.9), pcie_efficiency=0.5)
    topology = build_topology(spec, 16)
    capacity = topology.capacity_bytes_per_s
    assert capacity[topology.start("nvlink_in")] == pytest.approx(0.8 * 450e9)
    assert capacity[topology.start("nic_in")] == pytest.approx(0.9 * NIC)
    assert capacity[topology.start("pcie_out")] == pytest.approx(0.5 * 64e9)
    assert capacity[topology.start("host_memory")] == pytest.approx(300e9)


def test_more_nics_than_devices_are_pooled():
    topology = build_topology(system(nics_per_node=16), 16)
    assert topology.shape.rails == 8
    assert topology.capacity_bytes_per_s[topology.start("nic_in")] == pytest.approx(2 * NIC)


def test_devices_share_fewer_nics():
    topology = build_topology(system(nics_per_node=2), 16)
    nics = topology.shape.nic(np.arange(16))
    assert nics.tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4


def test_nodes_without_nvlink_talk_over_pcie():
    topology = build_topology(system(intra_node="pcie", nvlink_domain=1), 16)
    assert topology.shape.local == "pcie"
    assert count(topology, "nvlink_out") == 0


def test_nvlink_domain_must_fit_nodes():
    with pytest.raises(SpecError, match="nvlink_domain"):
        build_topology(system(nvlink_domain=12), 24)


def test_names_are_unique_and_readable():
    topology = build_topology(system(), 4096)
    names = [topology.name(link) for link in range(topology.num_links)]
    assert len(set(names)) == topology.num_links
    assert topology.name(topology.start("nvlink_out") + 17) == "nvlink_out[17]"
    assert topology.name(topology.start("nic_in") + 26) == "nic_in[3.2]"
    assert topology.name(topology.start("leaf_up") + 11) == "leaf_up[su1.rail3]"
    assert topology.name(topology.start("spine_down") + 3) == "spine_down[2.3]"


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("leaf_up[*rail3]", ["leaf_up[su0.rail3]", "leaf_up[su1.rail3]"]),
        ("nic_in[3.2]", ["nic_in[3.2]"]),
        ("*[63.7]", ["nic_out[63.7]", "nic_in[63.7]"]),
        ("nvlink_out[51?]", ["nvlink_out[510]", "nvlink_out[511]"]),
        ("nothing", []),
        ("rail99", []),
    ],
)
def test_patterns_select_links(pattern, names):
    topology = build_topology(system(), 512)
    assert [topology.name(link) for link in topology.links_matching(pattern)] == names


def test_rail_alias_takes_nics_and_leaves():
    topology = build_topology(system(), 512)
    names = [topology.name(link) for link in topology.links_matching("rail3")]
    assert len(names) == 2 * 64 + 2 * 2
    assert all(name.endswith((".3]", ".rail3]")) for name in names)


def test_kind_alone_selects_its_links():
    topology = build_topology(system(), 512)
    assert len(topology.links_matching("leaf_up*")) == 16


def test_degrade_changes_only_what_it_is_told():
    topology = build_topology(system(), 512)
    factors = np.ones(topology.num_links)
    factors[topology.links_matching("rail3")] = 0.5
    slower = topology.degrade(factors)
    np.testing.assert_array_equal(
        slower.capacity_bytes_per_s, topology.capacity_bytes_per_s * factors
    )
    assert slower.name(3) == topology.name(3)


def test_device_without_nvlink_bandwidth_has_no_nvlink():
    topology = build_topology(system(device=device(nvlink=0)), 8)
    assert topology.shape.local == "pcie"
