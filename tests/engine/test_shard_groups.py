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


def test_whole_tensors_come_from_their_owner() -> None:
    """Gradients are all-reduced in buckets of the given size, then each owner broadcasts its share
    once: all parameters in sum, and no share that another could take a part of."""
    for shard in (None, 8):
        played = sharded(1, shard, zero_partition="tensors")
        parameters = sum(layer.parameters for layer in played.plan.context.layers)
        assert sizes(played, "grad reduce").sum() == 4.0 * parameters
        assert len(sizes(played, "grad reduce")) == len(sizes(sharded(0, None), "grad reduce"))
        given = sizes(played, "param gather")
        assert given.sum() == 2.0 * parameters
        assert 1 < len(given) <= (shard or RANKS)
        comms = {comm.collective for comm in played.plan.context.tables.comms}
        assert {"all_reduce", "broadcast"} <= comms
        assert not {"reduce_scatter", "all_gather"} & comms


@pytest.mark.parametrize("gated", [False, True])
def test_a_weight_is_the_largest_message(gated: bool) -> None:
    """Gate and up have an owner each where a rank's share is smaller than either."""
    ranks, hidden, ffn = 64, 1024, 8192
    played = play(
        job(
            cluster__devices=ranks,
            workload__global_batch=ranks,
            workload__model__gated=gated,
            workload__model__ffn=ffn,
            parallel={"zero": 1},
            policies={"zero_partition": "tensors"},
        )
    )
    given = sizes(played, "param gather")
    parameters = sum(layer.parameters for layer in played.plan.context.layers)
    assert given.sum() == 2.0 * parameters
    weight_bytes = 2.0 * hidden * ffn
    assert 2.0 * parameters / ranks < weight_bytes <= given.max() < 1.2 * weight_bytes


def test_the_largest_share_is_updated_while_others_wait() -> None:
    """The optimizer step is that of the rank that owns most, which is more than an equal part."""
    played, flat = sharded(1, None, zero_partition="tensors"), sharded(1, None)
    parameters = sum(layer.parameters for layer in played.plan.context.layers)
    largest = sizes(played, "param gather").max() / 2.0
    assert largest > parameters / RANKS
    assert updated(played) == pytest.approx(largest)
    assert updated(flat) == pytest.approx(parameters / RANKS)


def updated(played: Played) -> float:
    """Parameters of the rank's optimizer step: 12 FLOPs each (Adam)."""
    return sum(op.flops for op in played.plan.context.tables.ops if op.name == "optimizer") / 12.0


@pytest.mark.parametrize("nodes", [1, 2, 8])
def test_a_broadcast_passes_slices_round_the_whole_ring(nodes: int) -> None:
    """Everything over each of n - 1 hops; the first slice is received whole before it goes on."""
    topology = build_topology(system(), 64)
    members = np.arange(8 * nodes)[None, :]
    profile = collective_profile(topology, members, "broadcast", "ring")
    near, far = 7 * nodes, nodes - 1
    hops_s = near * 2e-6 + far * 5e-6
    assert profile.latency_s[0] == pytest.approx(hops_s)
    near_s, far_s = 16 / 450e9, 2 / 50e9  # a device's NVLink has 16 channels, a NIC two
    for size_bytes in (2**10, 2**19, 2**30):
        slice_bytes = min(size_bytes, 2**19)
        relayed_s = slice_bytes * (near * near_s + far * far_s)
        simple = profile.protocol("Simple").latency_s(profile, size_bytes)
        once = profile.protocol("Simple").latency_s(profile, 0.0)
        assert simple[0] - once[0] == pytest.approx(relayed_s)
