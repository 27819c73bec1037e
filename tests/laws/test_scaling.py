"""Laws of scale: what a job does when its hardware gets faster, in all parts or in one."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from desim.spec.scenario import Scenario
from tests.jobs import BASE, job, play, with_system

PIPELINE = {"cluster__devices": 16, "parallel": {"tensor": 2, "pipeline": 2}}
JOBS: dict[str, dict[str, Any]] = {
    "pipeline": PIPELINE,
    "interleaved": {
        "cluster__devices": 16,
        "workload__global_batch": 16,
        "parallel": {"tensor": 2, "pipeline": 2, "virtual_stages": 2},
        "policies": {"schedule": "interleaved", "overlap": {"pipeline": "async"}},
    },
    "sharded": {
        "cluster__devices": 16,
        "workload__global_batch": 16,
        "parallel": {"zero": 3},
    },
    "disturbed": {
        **PIPELINE,
        "disturb": [
            {"device": 3, "compute": 0.7},
            {"jitter": 0.02},
            {"link": "rail1", "bandwidth": 0.3},
        ],
    },
}
WIDE = {**BASE["workload"]["model"], "hidden": 4096, "ffn": 16384, "heads": 32, "kv_heads": 32}


def scaled(scenario: Scenario, rate: float) -> Scenario:
    """The scenario with every rate multiplied and every fixed time of the hardware divided."""
    system = scenario.cluster.system
    device, fabric = system.device, system.fabric
    peaks = {dtype: peak * rate for dtype, peak in device.peak_flops_per_s.items()}
    return with_system(
        scenario,
        device={
            "memory_bytes_per_s": device.memory_bytes_per_s * rate,
            "peak_flops_per_s": peaks,
            "nvlink_bytes_per_s": device.nvlink_bytes_per_s * rate,
            "pcie_bytes_per_s": device.pcie_bytes_per_s * rate,
        },
        kernels={"floor_s": device.kernels.floor_s / rate},
        fabric={
            "nic_bytes_per_s": fabric.nic_bytes_per_s * rate,
            "latency_s": fabric.latency_s / rate,
            "hop_latency_s": fabric.hop_latency_s / rate,
        },
        nvlink_latency_s=system.nvlink_latency_s / rate,
        host_memory_bytes_per_s=system.host_memory_bytes_per_s * rate,
    )


@pytest.mark.parametrize("name", JOBS)
def test_ten_times_everything_takes_a_tenth(name: str) -> None:
    """To 1e-9 on hardware so slow that the clock's picosecond does not show.

    On today's hardware each kernel of some microseconds is rounded to a picosecond: 1e-7.
    """
    scenario = job(**JOBS[name])
    for slow, close in ((1e-3, 1e-9), (1.0, 1e-7)):
        steps = []
        for rate in (slow, 10 * slow):
            steps.append(play(scaled(scenario, rate), host=1 / rate).step_ps)
        assert steps[0] / steps[1] == pytest.approx(10, rel=close)


def more(scenario: Scenario, resource: str, factor: float) -> Scenario:
    """The scenario with more of one resource."""
    system = scenario.cluster.system
    device, fabric = system.device, system.fabric
    if resource == "memory":
        size = device.memory_bytes_per_s * factor
        return with_system(scenario, device={"memory_bytes_per_s": size})
    if resource == "peak":
        peaks = {dtype: peak * factor for dtype, peak in device.peak_flops_per_s.items()}
        return with_system(scenario, device={"peak_flops_per_s": peaks})
    if resource == "nvlink":
        size = device.nvlink_bytes_per_s * factor
        return with_system(scenario, device={"nvlink_bytes_per_s": size})
    if resource == "nic":
        return with_system(scenario, fabric={"nic_bytes_per_s": fabric.nic_bytes_per_s * factor})
    return with_system(
        scenario,
        fabric={"latency_s": fabric.latency_s / factor},
        nvlink_latency_s=system.nvlink_latency_s / factor,
    )


@pytest.mark.parametrize("name", ["pipeline", "interleaved", "sharded"])
def test_more_of_a_resource_is_never_slower(name: str) -> None:
    """Each resource makes each of the jobs faster in the end.

    One anomaly is known: a collective that begins while a kernel runs has `beside_compute` of its
    bandwidth to its end, one that begins between two kernels has all. A faster kernel can move the
    beginning. Without that the law is strict, with it no step is a hundredth slower. (Another does
    not come up here: a faster link takes its memory bandwidth in a burst, docs/how-it-works.md.)
    """
    scenario = job(**JOBS[name], workload__model=WIDE)
    for share, worse in ((1.0, 1.0), (0.9, 1.01)):
        fair = with_system(scenario, communication={"beside_compute": share})
        before = play(fair).step_ps
        for resource in ("memory", "peak", "nvlink", "nic", "latency"):
            steps = [play(more(fair, resource, factor)).step_ps for factor in (1.1, 2.0, 8.0)]
            for less, after in pairwise([before, *steps]):
                assert after <= worse * less, resource
            assert steps[-1] < before, resource


def test_with_one_replica_reductions_change_nothing() -> None:
    """At dp = 1 no gradient is reduced: size of buckets, overlap and sharding say nothing."""
    base = {"cluster__devices": 8, "parallel": {"tensor": 4, "pipeline": 2, "zero": 0}}
    before = play(job(**base))
    assert "grad reduce" not in before.record.names
    for policies in (
        {"bucket": "1 MB"},
        {"overlap": {"grad_reduce": "none"}},
        {"collectives": {"reduce_scatter": "ring"}},
    ):
        assert play(job(**base, policies=policies)).step_ps == before.step_ps


def test_a_step_repeats() -> None:
    """Three steps take three times one: the measured window is a period."""
    for name in ("pipeline", "interleaved", "sharded"):
        once, thrice = play(job(**JOBS[name])), play(job(**JOBS[name], run__steps=3))
        assert thrice.record.num_steps == 3
        assert thrice.step_ps == pytest.approx(once.step_ps, rel=1e-9)
        assert thrice.record.num_tasks == 3 * once.record.num_tasks
