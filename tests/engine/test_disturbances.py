"""Slow devices, degraded links and jitter do what they say to those whom they meet."""

from __future__ import annotations

import numpy as np
import pytest

from desim.record import PS_PER_S
from tests.jobs import LANE, Played, instant, job, play, with_system

SHORT = {"workload__model__layers": 2}


def class_of(played: Played, rank: int) -> int:
    return int(played.plan.folding.ranks.of[rank])


def test_a_slow_device_computes_slowly() -> None:
    """Every kernel of it takes 1 / 0.5 as long, the others' take what they did."""
    calm = play(job(**SHORT, parallel__zero=0), host=0.0)
    played = play(job(**SHORT, parallel__zero=0, disturb=[{"device": 5, "compute": 0.5}]), host=0.0)
    slow, other = class_of(played, 5), class_of(played, 0)
    assert [c.count for c in played.record.classes] == [7, 1]
    kernels = calm.rows(lane="compute")
    expected = calm.spans().alone_ps[kernels]
    assert (played.spans(other).alone_ps[kernels] == expected).all()
    assert np.abs(played.spans(slow).alone_ps[kernels] - 2 * expected).max() <= 1


def test_its_group_waits_for_a_slow_device() -> None:
    """Tensor partners meet it at every collective; the wait is theirs and is recorded as such."""
    played = play(
        job(**SHORT, parallel={"tensor": 4, "zero": 0}, disturb=[{"device": 1, "compute": 0.5}]),
        host=0.0,
    )
    accounts = played.accounts()
    slow, partner, far = (class_of(played, rank) for rank in (1, 0, 4))
    assert accounts[slow]["waiting"] < accounts[partner]["waiting"]
    assert accounts[slow]["compute"] > 1.9 * accounts[partner]["compute"]
    assert accounts[far]["waiting"] > 0
    assert sum(accounts[partner].values()) == pytest.approx(sum(accounts[slow].values()), rel=0.01)
    tensor = played.rows(partner, lane="tp")
    theirs, ours = played.spans(partner), played.spans(slow)
    assert (theirs.start_ps[tensor] == ours.start_ps[tensor]).all()
    gathered = played.rows(partner, "up_input")  # after a kernel of the forward pass
    assert (theirs.ready_ps[gathered] < theirs.start_ps[gathered]).all()
    assert (ours.ready_ps[gathered] == ours.start_ps[gathered]).all()


def test_a_degraded_link_slows_its_users() -> None:
    """Messages over NIC 0 of node 0 take twice as long, those beside it what they did."""
    base = {
        "cluster__devices": 16,
        "parallel": {"pipeline": 2, "zero": 0},
        "workload__global_batch": 8,
    }
    calm = play(job(**base))
    played = play(job(**base, disturb=[{"link": "nic_out[0.3]", "bandwidth": 0.5}]))
    size = calm.spans().size_bytes[calm.rows(0, "send forward")[0]]
    fabric = calm.plan.scenario.cluster.system.fabric
    wire_ps = size / (fabric.nic_bytes_per_s * fabric.efficiency) * PS_PER_S
    latency_ps = fabric.latency_s * PS_PER_S
    for rank, factor in ((3, 2.0), (0, 1.0)):
        number = class_of(played, rank)
        spans = played.spans(number)
        took = {int(spans.alone_ps[row]) for row in played.rows(number, "send forward")}
        assert len(took) == 1
        assert took.pop() == pytest.approx(latency_ps + factor * wire_ps, abs=1)
    returned = played.spans(class_of(played, 8 + 3))
    backward = played.rows(class_of(played, 8 + 3), "send backward")
    assert set(returned.alone_ps[backward]) == {round(latency_ps + wire_ps)}


def test_a_degraded_rail_slows_all_of_its_ring() -> None:
    calm = play(job(cluster__devices=16, workload__global_batch=16))
    played = play(
        job(
            cluster__devices=16,
            workload__global_batch=16,
            disturb=[{"link": "rail1", "bandwidth": 0.25}],
        )
    )
    assert played.step_ps > calm.step_ps
    reduced = played.rows(name="grad reduce")
    before = calm.spans().alone_ps[calm.rows(name="grad reduce")]
    assert (played.spans().alone_ps[reduced] > 2 * before).all()


def test_jitter_is_log_normal_and_drawn_from_the_seed() -> None:
    """Factors of all kernels of a rank: their logarithm has the spread that was asked for."""
    spread = 0.1
    one = {"cluster__devices": 1, "workload__global_batch": 16, "disturb": [{"jitter": spread}]}
    calm = play(job(cluster__devices=1, workload__global_batch=16))
    jittered = play(job(**one, run__seed=4))
    factors = np.log(jittered.spans().alone_ps / calm.spans().alone_ps)
    number = len(factors)
    assert abs(factors.mean()) < 4 * spread / np.sqrt(number)
    assert factors.std() == pytest.approx(spread, rel=4 / np.sqrt(2 * number))
    again = play(job(**one, run__seed=4))
    assert (again.spans().end_ps == jittered.spans().end_ps).all()
    other = play(job(**one, run__seed=5))
    assert (other.spans().alone_ps != jittered.spans().alone_ps).mean() > 0.99


def test_ranks_draw_their_jitter_apart() -> None:
    played = play(job(disturb=[{"jitter": 0.1}]))
    first, second = (
        played.spans(n).alone_ps[played.spans(n).lane == LANE["compute"]] for n in (0, 1)
    )
    assert (first != second).mean() > 0.99


def test_several_steps_are_averaged() -> None:
    """Under jitter steps differ; step time is the mean of the measured ones."""
    jitter = {"disturb": [{"jitter": 0.2}]}
    played = play(job(**jitter, run__steps=3))
    record = played.record
    assert record.num_steps == 3
    lengths = [c.window_ps[1] - c.window_ps[0] for c in record.classes]
    assert record.step_time_ps == round(sum(lengths) / len(lengths) / 3)
    spans = played.spans()
    ends = spans.end_ps[played.rows(name="optimizer")]
    steps = np.diff([record.classes[0].window_ps[0], *ends])
    assert len(set(steps.tolist())) == 3
    assert steps.mean() == pytest.approx(record.step_time_ps, rel=0.05)


def test_disturbances_multiply() -> None:
    twice = [{"device": 0, "compute": 0.5}, {"device": 0, "compute": 0.8}]
    base = with_system(instant(job(cluster__devices=1, disturb=twice)))
    played = play(base, lambda op: 1.0 if op.name == "qkv" else 0.0)
    (length,) = {int(played.spans().alone_ps[row]) for row in played.rows(name="qkv")}
    assert length == round(PS_PER_S / 0.4)
