"""Loads of collectives on links, checked by counting and by listing every message."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from desim.network.collectives import ALGORITHMS, available
from desim.network.collectives.tree import tree_parent
from desim.network.profile import collective_profile, copy_profile, send_profile
from desim.network.route import route
from desim.network.topology import LINK_KINDS, build_topology
from tests.network.build import fabric, system

ALL = [(collective, name) for collective, table in ALGORITHMS.items() for name in table]


def total(topology, profile, kind):
    return profile.load[topology.kind[profile.link] == LINK_KINDS.index(kind)].sum()


def systems():
    return st.builds(
        lambda topology, radix, nics, domain, node, sockets: system(
            fabric=fabric(topology=topology, radix=radix),
            devices_per_node=node,
            nics_per_node=min(nics, node),
            nvlink_domain=node * domain if domain else 1,
            intra_node="nvswitch" if domain else "pcie",
            sockets=sockets,
            socket_bandwidth="16 GB/s",
        ),
        st.sampled_from(["rail", "fat_tree"]),
        st.sampled_from([4, 8, 16]),
        st.sampled_from([1, 2, 4, 8]),
        st.sampled_from([0, 1, 1, 2, 3]),
        st.sampled_from([2, 4, 8]),
        st.sampled_from([1, 2]),
    )


@st.composite
def cases(draw):
    spec = draw(systems())
    num_devices = draw(st.integers(2, 120))
    ids = draw(st.permutations(range(num_devices)))
    size = draw(st.integers(1, num_devices))
    groups = np.array(ids[: num_devices // size * size], np.int64).reshape(-1, size)
    return build_topology(spec, num_devices), groups


def usable(topology, members, collective, name):
    """Whether an algorithm runs: all do on any group, but in-switch ones need the switch."""
    return name != "nvls" or name in available(topology, members.shape[1], members, collective)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_pairwise_equals_the_routes_of_all_pairs(case):
    topology, members = case
    profile = collective_profile(topology, members, "all_to_all", "pairwise")
    size = members.shape[1]
    expected = np.zeros((len(members), topology.num_links))
    for group, row in enumerate(members):
        _, link = route(topology, np.repeat(row, size), np.tile(row, size))
        expected[group] = np.bincount(link, minlength=topology.num_links) / size
    found = np.zeros_like(expected)
    found[profile.group, profile.link] = profile.load
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=0)


@settings(max_examples=40, deadline=None)
@given(cases(), st.sampled_from(ALL))
def test_what_leaves_arrives(case, which):
    topology, members = case
    if not usable(topology, members, *which):
        return
    profile = collective_profile(topology, members, *which)
    pairs = [("nic_out", "nic_in"), ("leaf_up", "leaf_down"), ("spine_up", "spine_down")]
    if which[1] != "nvls" or which[0] == "all_reduce":
        # In-switch gathers multiply bytes in the switch, in-switch scatters add them up.
        pairs += [("nvlink_out", "nvlink_in"), ("pcie_out", "pcie_in")]
    for out, into in pairs:
        assert total(topology, profile, out) == pytest.approx(total(topology, profile, into))


@settings(max_examples=40, deadline=None)
@given(cases(), st.sampled_from(ALL))
def test_rows_are_unique_sorted_and_timed_by_their_worst_link(case, which):
    topology, members = case
    if not usable(topology, members, *which):
        return
    profile = collective_profile(topology, members, *which)
    key = profile.group * topology.num_links + profile.link
    assert (np.diff(key) > 0).all()
    assert (profile.load > 0).all()
    worst = np.zeros(len(members))
    busy = profile.load / topology.capacity_bytes_per_s[profile.link]
    np.maximum.at(worst, profile.group, busy)
    np.testing.assert_array_equal(profile.seconds_per_byte, worst)


@settings(max_examples=40, deadline=None)
@given(cases(), st.sampled_from(ALL), st.randoms(use_true_random=False))
def test_order_of_members_and_groups_is_immaterial(case, which, random):
    topology, members = case
    if not usable(topology, members, *which):
        return
    rows = list(range(len(members)))
    random.shuffle(rows)
    mixed = members[rows][:, random.sample(range(members.shape[1]), members.shape[1])]
    one = collective_profile(topology, members, *which)
    other = collective_profile(topology, mixed, *which)
    for place, row in enumerate(rows):
        here, there = other.group == place, one.group == row
        np.testing.assert_array_equal(other.link[here], one.link[there])
        np.testing.assert_allclose(other.load[here], one.load[there], rtol=1e-11)
        assert other.latency_s[place] == pytest.approx(one.latency_s[row], rel=1e-11)


@settings(max_examples=40, deadline=None)
@given(cases(), st.sampled_from(["ring", "hierarchical", "tree"]))
def test_every_island_receives_what_it_lacks(case, name):
    """A part that holds k of n blocks needs the rest from outside once, by any even algorithm."""
    topology, members = case
    profile = collective_profile(topology, members, "all_gather", name)
    size = members.shape[1]
    for group, row in enumerate(members):
        parts = len(np.unique(row // topology.shape.island))
        lacking = (size - 1) / size if name == "ring" else (parts - 1) / parts
        mine = profile.group == group
        into = mine & (topology.kind[profile.link] == LINK_KINDS.index("nic_in"))
        expected = parts * lacking if parts > 1 else 0.0
        assert profile.load[into].sum() == pytest.approx(expected)


@pytest.mark.parametrize("count", range(1, 40))
def test_tree_is_binary_and_shallow(count):
    node = np.arange(count)
    parent = tree_parent(node, np.full(count, count))
    assert parent[0] == 0
    children = np.bincount(parent[1:], minlength=count)
    assert children.max(initial=0) <= 2
    depth, reached = 0, node
    while reached.any():
        reached, depth = parent[reached], depth + 1
    assert depth <= int(np.ceil(np.log2(count))) if count > 1 else depth == 0


def test_double_tree_balances_its_nics():
    topology = build_topology(system(), 512)
    members = np.arange(512).reshape(1, -1)
    profile = collective_profile(topology, members, "all_reduce", "tree")
    load = profile.load[topology.kind[profile.link] == LINK_KINDS.index("nic_out")]
    # 2 S per node in all over 8 NICs, 64 - 1 edges of two trees of S / 2, both ways.
    assert load.sum() == pytest.approx(2 * 63)
    assert load.max() <= 2 / 8 + 1e-11


def test_pat_keeps_most_bytes_near():
    topology = build_topology(system(), 2048)
    members = np.arange(0, 2048, 8).reshape(1, -1)
    ring = collective_profile(topology, members, "all_gather", "ring")
    pat = collective_profile(topology, members, "all_gather", "tree")
    assert total(topology, pat, "nic_out") == pytest.approx(total(topology, ring, "nic_out"))
    # Leaf of 32: distance d leaves with min(d, 32) members, 256 / (2 d) blocks of 1 / 256 each.
    crossing = sum(min(d, 32) * 128 / d / 256 for d in (1, 2, 4, 8, 16, 32, 64, 128))
    per_leaf = profile_on(topology, pat, "leaf_up")
    np.testing.assert_allclose(per_leaf, crossing)
    assert pat.latency_s[0] < ring.latency_s[0] / 10


@pytest.mark.parametrize("which", [pair for pair in ALL if pair[1] != "nvls"])
def test_groups_that_stand_alike_have_equal_numbers(which):
    """Folding compares loads as numbers, so that a last bit would split classes."""
    topology = build_topology(system(), 4096)
    members = np.arange(4096).reshape(-1, 8).T.copy()
    profile = collective_profile(topology, members, *which)
    rows = [np.sort(profile.load[profile.group == group]) for group in range(8)]
    for row in rows[1:]:
        np.testing.assert_array_equal(row, rows[0])
    nics = profile.load[topology.kind[profile.link] == LINK_KINDS.index("nic_out")]
    assert len(np.unique(nics)) <= 4
    assert len(np.unique(profile.latency_s)) == 1


def profile_on(topology, profile, kind):
    return profile.load[topology.kind[profile.link] == LINK_KINDS.index(kind)]


def test_ring_uses_all_nics_of_a_node():
    topology = build_topology(system(), 512)
    profile = collective_profile(topology, np.arange(512).reshape(1, -1), "all_reduce", "ring")
    hop = 2 * 511 / 512
    np.testing.assert_allclose(profile_on(topology, profile, "nic_out"), hop / 8)
    np.testing.assert_allclose(profile_on(topology, profile, "nvlink_out"), hop * 7 / 8)
    # Two units: each leaf is left once by its ring.
    np.testing.assert_allclose(profile_on(topology, profile, "leaf_up"), hop / 8)


def test_uneven_groups_share_lanes():
    topology = build_topology(system(), 16)
    members = np.array([[0, 1, 2, 8]])
    profile = collective_profile(topology, members, "all_gather", "ring")
    load = {topology.name(link): x for link, x in zip(profile.link, profile.load, strict=True)}
    assert load["nic_out[0.0]"] == pytest.approx(0.75 / 3)
    assert load["nic_out[1.0]"] == pytest.approx(0.75)


def test_two_level_sends_the_same_bytes_as_pairwise_between_nodes():
    topology = build_topology(system(), 512)
    members = np.arange(512).reshape(4, -1)
    one = collective_profile(topology, members, "all_to_all", "pairwise")
    two = collective_profile(topology, members, "all_to_all", "two_level")
    for kind in ("nic_out", "nic_in", "leaf_up"):
        np.testing.assert_allclose(total(topology, one, kind), total(topology, two, kind))
    assert two.latency_s[0] < one.latency_s[0]


def test_one_member_needs_no_network():
    topology = build_topology(system(), 16)
    for collective, name in ALL:
        profile = collective_profile(topology, np.arange(16).reshape(-1, 1), collective, name)
        assert len(profile.load) == 0
        assert profile.sms == 0
        assert not profile.latency_s.any()


def test_sends_have_load_one_on_their_route():
    topology = build_topology(system(), 512)
    profile = send_profile(topology, np.array([0, 0, 0]), np.array([1, 8, 256]))
    assert (profile.load == 1).all()
    assert np.bincount(profile.group).tolist() == [2, 2, 4]
    np.testing.assert_allclose(profile.latency_s, [2e-6, 5e-6, 6e-6])
    np.testing.assert_allclose(profile.seconds_per_byte, [1 / 450e9, 1 / 50e9, 1 / 50e9])


def test_copies_use_pcie_and_host_memory():
    topology = build_topology(system(), 16)
    profile = copy_profile(topology, np.array([3, 9]), "h2d")
    names = [topology.name(link) for link in profile.link]
    assert names == ["pcie_in[3]", "host_memory[0]", "pcie_in[9]", "host_memory[1]"]
    assert profile.sms == 0


def test_available_follows_system_and_group():
    topology = build_topology(system(), 64)
    node, world = np.arange(64).reshape(-1, 8), np.arange(64).reshape(1, -1)
    spread = np.arange(64).reshape(8, 8).T
    assert available(topology, 8, node, "all_reduce") == ["ring", "nvls"]
    assert available(topology, 64, world, "all_gather") == ["ring", "hierarchical"]
    assert available(topology, 8, spread, "all_gather") == ["ring", "tree"]
    assert available(topology, 64, world, "all_to_all") == ["pairwise", "two_level"]
    assert "nvls" in available(topology, 64, world)
    without = build_topology(system(nvls=False), 64)
    assert available(without, 8, node, "all_reduce") == ["ring"]
