"""Closed forms of collectives that run alone, and monotony."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from desim.network.collectives import ALGORITHMS
from desim.network.profile import collective_profile, send_profile
from desim.network.protocols import NVLS_STEPS
from desim.network.topology import build_topology
from tests.network.build import fabric, system

NVLINK, NIC, NEAR_S, FAR_S = 450e9, 50e9, 2e-6, 5e-6


def alone_s(profile, size_bytes, group=0):
    return profile.latency_s[group] + size_bytes * profile.seconds_per_byte[group]


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 8), st.floats(1, 1e12))
def test_ring_inside_a_node(n, size_bytes):
    """All-reduce 2 (n-1)/n S/B + 2 (n-1) a; all-gather and reduce-scatter half of it."""
    topology = build_topology(system(), 8)
    members = np.arange(n).reshape(1, -1)
    whole = (n - 1) / n * size_bytes / NVLINK + (n - 1) * NEAR_S
    for collective, rounds in (("all_reduce", 2), ("all_gather", 1), ("reduce_scatter", 1)):
        profile = collective_profile(topology, members, collective, "ring")
        assert alone_s(profile, size_bytes) == pytest.approx(rounds * whole)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 32), st.floats(1, 1e12))
def test_ring_of_one_member_per_node_under_one_leaf(n, size_bytes):
    """All-reduce 2 (n-1)/n S/B + 2 (n-1) a with the NIC's B and the fabric's a."""
    topology = build_topology(system(), 8 * n)
    members = np.arange(n).reshape(1, -1) * 8
    profile = collective_profile(topology, members, "all_reduce", "ring")
    expected = 2 * (n - 1) / n * size_bytes / NIC + 2 * (n - 1) * FAR_S
    assert alone_s(profile, size_bytes) == pytest.approx(expected)


def test_ring_over_whole_nodes():
    """N nodes of k: 2 (n-1)/n S over k NICs; 2 (N-1) steps between nodes, 2 (n-N) inside."""
    topology = build_topology(system(), 64)
    profile = collective_profile(topology, np.arange(64).reshape(1, -1), "all_reduce", "ring")
    expected = 2 * 63 / 64 * 1e9 / (8 * NIC) + 2 * 7 * FAR_S + 2 * 56 * NEAR_S
    assert alone_s(profile, 1e9) == pytest.approx(expected)


def test_hierarchical_over_whole_nodes():
    """N nodes of k: 2 (N-1)/N S over k NICs; 2 (N-1) steps between nodes, 2 (k-1) inside."""
    topology = build_topology(system(), 64)
    members = np.arange(64).reshape(1, -1)
    profile = collective_profile(topology, members, "all_reduce", "hierarchical")
    between = 2 * 7 / 8 * 1e9 / (8 * NIC)
    assert between > 2 * 7 / 8 * 1e9 / NVLINK
    assert alone_s(profile, 1e9) == pytest.approx(between + 2 * 7 * FAR_S + 2 * 7 * NEAR_S)


@pytest.mark.parametrize("efficiency", [1.0, 0.8])
def test_nvls_inside_a_node(efficiency):
    """All-reduce (1 + 1/n) S/B + a with the in-switch efficiency, whatever that of rings is."""
    spec = system(nvlink_efficiency=0.7, nvls_efficiency=efficiency)
    topology = build_topology(spec, 8)
    profile = collective_profile(topology, np.arange(8).reshape(1, -1), "all_reduce", "nvls")
    expected = (1 + 1 / 8) * 1e9 / (NVLINK * efficiency) + NVLS_STEPS * NEAR_S
    assert alone_s(profile, 1e9) == pytest.approx(expected)


def test_tree_latency_grows_with_the_logarithm():
    """2 log2(N) steps between N nodes of one member each, plus what the climbs add."""
    topology = build_topology(system(fabric=fabric(hop_latency="0 us")), 8 * 1024)
    for nodes in (2, 4, 32, 1024):
        members = np.arange(nodes).reshape(1, -1) * 8
        profile = collective_profile(topology, members, "all_reduce", "tree")
        assert profile.latency_s[0] == pytest.approx(2 * np.log2(nodes) * FAR_S)


def test_pat_latency_is_one_hop_per_round():
    topology = build_topology(system(), 256)
    members = np.arange(0, 256, 8).reshape(1, -1)
    profile = collective_profile(topology, members, "all_gather", "tree")
    expected = 31 / 32 * 1e9 / NIC + 5 * FAR_S
    assert alone_s(profile, 1e9) == pytest.approx(expected)


def test_all_to_all_between_nodes():
    """(n-k)/n of the bytes leave by the NIC."""
    topology = build_topology(system(), 64)
    members = np.arange(64).reshape(1, -1)
    profile = collective_profile(topology, members, "all_to_all", "pairwise")
    assert profile.seconds_per_byte[0] == pytest.approx(56 / 64 / NIC)


def test_send_is_latency_and_size_over_bandwidth():
    topology = build_topology(system(), 16)
    profile = send_profile(topology, np.array([0]), np.array([8]))
    assert alone_s(profile, 1e9) == pytest.approx(1e9 / NIC + FAR_S)


def test_oversubscription_binds_only_beyond_the_leaf():
    """A ring crosses each leaf once and does not feel 8:1; an all-to-all does."""
    spec = system(fabric=fabric(oversubscription=8.0))
    topology, plain = build_topology(spec, 512), build_topology(system(), 512)
    members = np.arange(512).reshape(1, -1)
    for collective, name, slower in (
        ("all_reduce", "ring", False),
        ("all_to_all", "pairwise", True),
    ):
        one = collective_profile(plain, members, collective, name).seconds_per_byte[0]
        other = collective_profile(topology, members, collective, name).seconds_per_byte[0]
        assert other > one if slower else other == one


@pytest.mark.parametrize("collective", sorted(ALGORITHMS))
def test_more_bandwidth_is_never_slower(collective):
    faster = system(fabric=fabric(nic="800 Gbps"))
    members = np.arange(512).reshape(4, 128)
    for name in ALGORITHMS[collective]:
        if name == "nvls" and collective != "all_reduce":
            continue
        one = collective_profile(build_topology(system(), 512), members, collective, name)
        other = collective_profile(build_topology(faster, 512), members, collective, name)
        assert (other.seconds_per_byte <= one.seconds_per_byte).all()
        np.testing.assert_array_equal(one.load, other.load)
