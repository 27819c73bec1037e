"""The tuner's choice."""

from __future__ import annotations

import numpy as np
import pytest

from desim.network.profile import collective_profile
from desim.network.protocols import NAMES
from desim.network.topology import build_topology
from desim.network.tuner import choose
from tests.network.build import system


def profiles(*names, devices=512):
    topology = build_topology(system(), devices)
    members = np.arange(devices).reshape(-1, 8).T.copy()
    return {name: collective_profile(topology, members, "all_reduce", name) for name in names}


def named(choice, group=0):
    return choice.names[choice.algorithm[group]], NAMES[choice.protocol[group]]


def test_small_messages_take_a_tree_with_low_latency():
    assert named(choose(profiles("ring", "tree"), 1e3)) == ("tree", "LL")


def test_large_messages_take_the_ring_with_all_bandwidth():
    # A ring moves 2 (n - 1) / n, a double tree up to 2: with enough bytes that outweighs latency.
    assert named(choose(profiles("ring", "tree"), 1e12)) == ("ring", "Simple")


def test_choice_is_the_fastest_of_all():
    table = profiles("ring", "tree")
    for size_bytes in np.geomspace(1e2, 1e11, 40):
        choice = choose(table, size_bytes)
        alone = choice.latency_s + size_bytes * choice.seconds_per_byte
        for profile in table.values():
            for protocol in profile.protocols:
                other = protocol.latency_s(profile, size_bytes)
                other = other + size_bytes * protocol.seconds_per_byte(profile)
                assert (alone <= other * (1 + 1e-12)).all()


def test_more_bytes_never_take_less_time():
    table = profiles("ring", "tree")
    last = 0.0
    for size_bytes in np.geomspace(1e2, 1e11, 60):
        choice = choose(table, size_bytes)
        now = choice.latency_s[0] + size_bytes * choice.seconds_per_byte[0]
        assert now >= last
        last = now


def test_ties_go_to_the_first():
    table = profiles("ring")
    twice = {"first": table["ring"], "second": table["ring"]}
    assert named(choose(twice, 1e9))[0] == "first"


def test_in_switch_runs_with_simple_only():
    topology = build_topology(system(), 8)
    members = np.arange(8).reshape(1, -1)
    table = {"nvls": collective_profile(topology, members, "all_reduce", "nvls")}
    choice = choose(table, 8.0)
    assert named(choice) == ("nvls", "Simple")
    assert choice.seconds_per_byte[0] == pytest.approx(table["nvls"].seconds_per_byte[0])


def test_slices_are_not_foreseen():
    """A broadcast takes the protocol that is fastest without them, and pays for them."""
    topology = build_topology(system(), 256)
    members = np.arange(256)[None, :]
    table = {"ring": collective_profile(topology, members, "broadcast", "ring")}
    for size_bytes in np.geomspace(1e3, 1e10, 20):
        choice = choose(table, size_bytes)
        expected = [
            protocol.expected_s(table["ring"])[0]
            + size_bytes * protocol.seconds_per_byte(table["ring"])[0]
            for protocol in table["ring"].protocols
        ]
        best = table["ring"].protocols[int(np.argmin(expected))]
        assert NAMES[choice.protocol[0]] == best.name
        assert choice.latency_s[0] == best.latency_s(table["ring"], size_bytes)[0]
        assert choice.latency_s[0] > best.expected_s(table["ring"])[0]
