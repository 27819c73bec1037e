"""Sharding over a part of the data-parallel ranks: bytes of every group, and who keeps what."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from desim.network.profile import collective_profile
from desim.network.topology import build_topology
from tests.jobs import Played, job, play
from tests.network.build import system

RANKS = 16


def sharded(zero: int, shard: int | None, **policies: Any) -> Played:
    parallel = {"zero": zero, "shard": shard} if shard else {"zero": zero}
    return play(
        job(
            cluster__devices=RANKS,
            workload__global_batch=RANKS,
            parallel=parallel,
            policies={"bucket": "8 MB", **policies},
        )
    )


def sizes(played: Played, name: str) -> np.ndarray:
    rows = played.rows(name=name) if name in played.record.names else []
    return played.spans().size_bytes[rows]


def kept(played: Played, owner: str) -> float:
    memory = played.record.memory[0]
    return float(memory.by_owner[memory.owners.index(owner)].max())


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_sharding_over_all_is_no_choice(zero: int) -> None:
    assert sharded(zero, RANKS).step_ps == sharded(zero, None).step_ps


@pytest.mark.parametrize("shard", [2, 4, 8])
@pytest.mark.parametrize("zero", [1, 2, 3])
def test_replicas_reduce_their_parts(zero: int, shard: int) -> None:
    """Each reduce-scatter is followed by an all-reduce of a rank's part among its replicas, and
    parameters are gathered as often as ever, from the shard group."""
    whole, part = sharded(zero, None), sharded(zero, shard)
    scattered = sizes(part, "grad reduce")
    assert np.allclose(sizes(part, "grad reduce of replicas"), scattered / shard, rtol=0, atol=1)
    assert len(sizes(whole, "grad reduce")) == len(scattered) > 1
    assert len(sizes(whole, "param gather")) == len(sizes(part, "param gather"))
    wiring = part.plan.wiring
    assert wiring.members["shard"].shape == (RANKS // shard, shard)
    assert wiring.members["replica"].shape == (shard, RANKS // shard)
    assert (np.diff(wiring.members["shard"]) == 1).all()
    assert (np.diff(wiring.members["replica"]) == shard).all()


@pytest.mark.parametrize("shard", [1, 4, 8])
def test_states_are_divided_by_the_shard_group(shard: int) -> None:
    """Adam: an fp32 parameter and two moments, 12 bytes, over `shard` ranks."""
    played = sharded(1, shard)
    assert kept(played, "optimizer") == pytest.approx(kept(sharded(0, None), "optimizer") / shard)


def test_gathers_stay_inside_the_node() -> None:
    """With shard groups of a node only the replicas' reductions load the network."""
    played = sharded(1, 8)
    wiring = played.plan.wiring
    uses = {use.family: wiring.profiles[use.profile] for use in wiring.uses if not use.light}
    kinds = {
        family: set(wiring.topology.kind[profile.link].tolist()) for family, profile in uses.items()
    }
    assert kinds["shard"].isdisjoint(kinds["replica"])


def test_one_rank_a_shard_replicates() -> None:
    """ZeRO-1 over one rank moves and keeps what ZeRO-0 does, its bucket padding aside."""
    one, none = sharded(1, 1), sharded(0, None)
    assert sizes(one, "grad reduce").sum() == pytest.approx(
        sizes(none, "grad reduce").sum(), rel=1e-3
    )
    assert "param gather" not in one.record.names


def test_whole_tensors_go_to_their_owner_and_come_back() -> None:
    """A message for each owner: reduced once and broadcast once, all parameters in sum; each pays
    for n - 1 steps of the ring. Inside shard groups gradients are all-reduced instead."""
    played = sharded(1, None, zero_partition="tensors")
    parameters = sum(layer.parameters for layer in played.plan.context.layers)
    assert sizes(played, "grad reduce").sum() == 4.0 * parameters
    assert sizes(played, "param gather").sum() == 2.0 * parameters
    assert 1 < len(sizes(played, "grad reduce")) <= RANKS
    comms = {comm.collective for comm in played.plan.context.tables.comms}
    assert {"reduce", "broadcast"} <= comms
    grouped = sharded(1, 8, zero_partition="tensors")
    comms = {comm.collective for comm in grouped.plan.context.tables.comms}
    assert {"all_reduce", "broadcast"} <= comms
    assert "reduce" not in comms


def test_a_broadcast_passes_the_whole_ring() -> None:
    """Everything over each hop of n - 1, whatever the group's size."""
    topology = build_topology(system(), 64)
    for n in (2, 4, 8):
        profile = collective_profile(topology, np.arange(n)[None, :], "broadcast", "ring")
        assert profile.seconds_per_byte[0] == pytest.approx(1 / 450e9)
        assert profile.latency_s[0] == pytest.approx((n - 1) * 2e-6)
