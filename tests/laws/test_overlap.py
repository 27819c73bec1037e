"""Law: overlap hides the shorter of two, never more, and what it costs is stated."""

from __future__ import annotations

from typing import Any

import pytest

from desim.network.protocols import protocols_of
from desim.record import PS_PER_S
from tests.jobs import BASE, LANE, Played, job, play, with_system

WIDE = {**BASE["workload"]["model"], "hidden": 4096, "ffn": 16384, "heads": 32, "kv_heads": 32}
BUCKETS = {"bucket": "50 MB", "collectives": {"all_reduce": "ring"}}
TOGETHER = {**BUCKETS, "overlap": {"grad_reduce": "bucketed", "param_gather": "prefetch"}}
APART = {**BUCKETS, "overlap": {"grad_reduce": "none", "param_gather": "none"}}


def data_parallel(policies: dict[str, Any], zero: int) -> Played:
    """Eight replicas on one node whose host is never late."""
    return play(job(workload__model=WIDE, parallel__zero=zero, policies=policies), host=0.0)


def kernels(played: Played) -> tuple[int, int]:
    """Picoseconds of all kernels: alone, and as they ran."""
    spans = played.spans()
    here = spans.lane == LANE["compute"]
    return int(spans.alone_ps[here].sum()), int((spans.end_ps - spans.start_ps)[here].sum())


def reductions(played: Played) -> tuple[int, int]:
    """Picoseconds of all data-parallel collectives: alone, and as they ran."""
    spans = played.spans()
    here = spans.lane == LANE["dp"]
    return int(spans.alone_ps[here].sum()), int((spans.end_ps - spans.start_ps)[here].sum())


@pytest.mark.parametrize("zero", [0, 1])
def test_apart_is_the_sum(zero: int) -> None:
    played = data_parallel(APART, zero)
    alone, ran = kernels(played)
    assert ran == alone
    assert played.step_ps == alone + reductions(played)[1]


@pytest.mark.parametrize("zero", [0, 1])
def test_together_is_between_the_longer_and_the_sum(zero: int) -> None:
    """The step holds all kernels and all reductions; it is longer than their sum by no more than
    the contention that the account states and the time for which reductions are slower."""
    played = data_parallel(TOGETHER, zero)
    apart = data_parallel(APART, zero)
    alone, ran = kernels(played)
    reduced_alone, reduced = reductions(played)
    account = played.accounts()[0]
    assert alone == kernels(apart)[0]
    assert max(alone, reduced_alone) < played.step_ps < apart.step_ps
    assert account["contention"] == ran - alone > 0
    assert played.step_ps <= alone + reduced_alone + account["contention"] + reduced - reduced_alone
    assert account["exposed_dp"] < reduced


def test_stretch_is_that_of_the_device() -> None:
    """A kernel beside communication runs on the SMs and the bandwidth that are left.

    A ring inside the node holds `nvlink_sms` SMs; a GEMM beside it, its floor aside, takes as much
    longer as SMs are missing.
    """
    played = data_parallel(TOGETHER, 0)
    device = played.plan.scenario.cluster.system.device
    stretch = device.sms / (device.sms - device.communication.nvlink_sms)
    spans = played.spans()
    moving = played.rows(name="grad reduce")
    gemms = [i for i in played.rows(name="down_dgrad") if _inside(played, i, moving)]
    assert gemms
    floor_ps = round(device.kernels.floor_s * PS_PER_S)
    for i in gemms:
        alone, ran = spans.alone_ps[i] - floor_ps, spans.end_ps[i] - spans.start_ps[i] - floor_ps
        assert ran / alone == pytest.approx(stretch, rel=1e-6)


def _inside(played: Played, kernel: int, moving: list[int]) -> bool:
    spans = played.spans()
    return any(
        spans.start_ps[i] <= spans.start_ps[kernel] and spans.end_ps[kernel] <= spans.end_ps[i]
        for i in moving
    )


def test_a_reduction_beside_compute_loses_its_stated_share() -> None:
    """Its bytes flow at `beside_compute` of NVLink's bandwidth if it begins beside a kernel; its
    latency is what it was, 2 (n - 1) steps and what the protocol pays once.
    """
    played = data_parallel(TOGETHER, 0)
    system = played.plan.scenario.cluster.system
    share = system.device.communication.beside_compute
    assert share < 1
    once_s = protocols_of(system, "ring")[-1].base_s
    latency_ps = (2 * (8 - 1) * system.nvlink_latency_s + once_s) * PS_PER_S
    spans = played.spans()
    kernels = spans.lane == LANE["compute"]
    hindered = []
    for i in played.rows(name="grad reduce"):
        at = spans.start_ps[i]
        hindered.append(bool((kernels & (spans.start_ps <= at) & (spans.end_ps > at)).any()))
        took = spans.end_ps[i] - spans.start_ps[i]
        flowing = (spans.alone_ps[i] - latency_ps) / (share if hindered[-1] else 1.0)
        assert took == pytest.approx(latency_ps + flowing, abs=2)
    assert set(hindered) == {True, False}


@pytest.mark.parametrize("nics", [0.1, 0.9, 10.0])
def test_compute_slows_the_part_inside_the_node_alone(nics: float) -> None:
    """A reduction over nodes whose rings hop on NVLink and on NICs side by side.

    Beside kernels it takes max(near / beside_compute, far) per byte: SMs and HBM are short, not
    NICs. `nics` is the pace across nodes over the pace inside them, alone.
    """
    scenario = job(
        cluster__devices=16,
        workload={**BASE["workload"], "global_batch": 16, "model": WIDE},
        parallel__zero=0,
        policies=TOGETHER,
    )
    system = scenario.cluster.system
    even = system.device.nvlink_bytes_per_s * system.nvlink_efficiency
    # A ring makes 7 of 8 hops inside a node, and its hops between nodes have 8 NICs.
    far_rate = even / system.fabric.efficiency * nics / 7
    played = play(with_system(scenario, fabric={"nic_bytes_per_s": far_rate}), host=0.0)
    share = system.device.communication.beside_compute
    spans = played.spans()
    kernels = spans.lane == LANE["compute"]
    seen = 0
    for i in played.rows(name="grad reduce"):
        at = spans.start_ps[i]
        if not (kernels & (spans.start_ps <= at) & (spans.end_ps > at)).any():
            continue
        (use,) = [
            u
            for u, c in zip(played.plan.wiring.uses, played.plan.context.tables.comms, strict=True)
            if c.size_bytes == spans.size_bytes[i] and c.beside and u.family == "dp"
        ]
        near, far = float(use.near_seconds_per_byte[0]), float(use.far_seconds_per_byte[0])
        assert near / far == pytest.approx(nics, rel=1e-9)
        took = (spans.end_ps[i] - spans.start_ps[i]) / PS_PER_S
        per_byte = max(near / share, far)
        assert took == pytest.approx(
            float(use.latency_s[0]) + spans.size_bytes[i] * per_byte, rel=1e-6
        )
        seen += 1
    assert seen


EXPERTS = {"experts": 8, "top_k": 2, "ffn": 1024, "shared_ffn": 1024}
MODELS = {"dense": WIDE, "mixture": {**BASE["workload"]["model"], "gated": True, "moe": EXPERTS}}
LAYOUTS = {
    "tensor": ("dense", {"tensor": 8}),
    "context": ("dense", {"context": 8}),
    "experts": ("mixture", {"expert": 8}),
}


@pytest.mark.parametrize(
    ("layout", "policies"),
    [
        ("tensor", {"overlap": {"tensor": "chunked"}}),
        ("tensor", {"overlap": {"tensor": "chunked", "tensor_chunks": 32}}),
        ("tensor", {"overlap": {"tensor": "chunked", "tensor_exchange": "direct"}}),
        ("tensor", {"overlap": {"tensor": "chunked", "tensor_exchange": "pipeline"}}),
        ("context", {"context": "ring"}),
        ("context", {"context": "two_level", "context_inside": 2}),
        ("experts", {"experts": {"shared": "beside"}}),
        ("experts", {"experts": {"chunks": 2}}),
        ("experts", {"experts": {"shared": "beside", "chunks": 4}}),
    ],
)
@pytest.mark.parametrize("recompute", ["none", "full"])
def test_no_overlap_beats_the_longer_nor_loses_to_the_sum(
    layout: str, policies: dict[str, Any], recompute: str
) -> None:
    """A step is at least all kernels alone and all that one lane moves alone; it is at most their
    sum with the contention on either side that the spans state."""
    model, parallel = LAYOUTS[layout]
    scenario = job(
        workload__model=MODELS[model],
        workload__sequence_length=4096,
        parallel={**parallel, "zero": 0},
        policies={**policies, "recompute": recompute},
    )
    played = play(scenario, host=0.0)
    spans = played.spans()
    alone, ran = kernels(played)
    took = spans.end_ps - spans.start_ps
    moved = [spans.lane == lane for lane in range(1, int(spans.lane.max()) + 1)]
    longest = max(int(spans.alone_ps[lane].sum()) for lane in moved)
    assert max(alone, longest) <= played.step_ps
    assert played.step_ps <= ran + sum(int(took[lane].sum()) for lane in moved)
    hidden = alone + sum(int(spans.alone_ps[lane].sum()) for lane in moved) - played.step_ps
    assert hidden > -(ran - alone) - int((took - spans.alone_ps).sum())
