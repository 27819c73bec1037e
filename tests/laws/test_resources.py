"""Law: what communication holds of a device kernels lack, and what it lacks it pays for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import desim
from desim.network.profile import collective_profile
from desim.network.topology import build_topology
from desim.spec.catalogue import list_names
from desim.spec.resources import Resources
from tests.jobs import BASE, LANE, Played, instant, job, play, same_bits

WIDE = {**BASE["workload"]["model"], "hidden": 4096, "ffn": 16384, "heads": 32, "kv_heads": 32}


def overlapped(**resources: Any) -> Played:
    """Replicas on one node whose gradients are reduced beside the backward pass."""
    policies = {
        "bucket": "50 MB",
        "collectives": {"all_reduce": "ring", "protocols": "simple"},
        "resources": resources,
    }
    changes = {"workload__model": WIDE, "workload__sequence_length": 8192, "parallel__zero": 0}
    return play(job(**changes, policies=policies), host=0.0)


def reduction_ps(played: Played) -> int:
    return int(played.spans().alone_ps[played.rows(name="grad reduce")].max())


def contention_ps(played: Played) -> int:
    return played.accounts()[0]["contention"]


def test_a_devices_own_numbers_are_no_choice() -> None:
    """Named again they change nothing, to the last bit; nor do more of them change bandwidth."""
    usual = overlapped()
    own = usual.plan.scenario.cluster.system.device.communication
    again = overlapped(nvlink_sms=own.nvlink_sms, network_sms=own.network_sms)
    assert same_bits(usual, again)
    assert reduction_ps(overlapped(nvlink_sms=2 * own.nvlink_sms)) == reduction_ps(usual)


@pytest.mark.parametrize("channels", [1, 4, 8, 12])
def test_a_ring_moves_what_its_channels_can(channels: int) -> None:
    """Links of `nvlink x nvlink_efficiency`, or channels x what one moves: the lesser decides."""
    scenario = job(policies={"resources": {"nvlink_sms": channels}})
    own = scenario.cluster.system
    system = scenario.policies.resources.applied(own)
    members = np.arange(8).reshape(1, 8)
    profile = collective_profile(build_topology(system, 8), members, "all_gather", "ring")
    links = own.device.nvlink_bytes_per_s * own.nvlink_efficiency
    rate = own.device.communication.channel_bytes_per_s
    assert rate is not None
    seconds = 7 / 8 / min(links, channels * rate)
    assert profile.seconds_per_byte[0] == pytest.approx(seconds, rel=1e-6)
    assert profile.sms == channels


def test_fewer_multiprocessors_trade_contention_for_bandwidth() -> None:
    """Where the links are full all the same, the fewer the better; below that transfers slow."""
    many, enough, few = (overlapped(nvlink_sms=n) for n in (24, 12, 2))
    assert contention_ps(many) > contention_ps(enough) > 0
    assert reduction_ps(many) == reduction_ps(enough) < reduction_ps(few)
    assert enough.step_ps < many.step_ps < few.step_ps


def test_own_channels_fill_the_links_of_every_system() -> None:
    """What the catalogue says of a channel never limits a device's own number of them."""
    limited = 0
    for name in list_names("systems"):
        scenario = desim.load(
            {**BASE, "cluster": {"system": name, "devices": 1}},
            ["kernels.attention=unfused", "workload.precision.compute=fp16"],
        )
        system, own = scenario.cluster.system, scenario.cluster.system.device.communication
        assert Resources().applied(system).device.communication.channel_bytes_per_s is None
        if own.channel_bytes_per_s is not None and system.nvlink_domain > 1:
            limited += 1
            links = system.device.nvlink_bytes_per_s * system.nvlink_efficiency
            assert own.nvlink_sms * own.channel_bytes_per_s > links, name
    assert limited > 5


def one_queue(**changes: Any) -> tuple[Played, Played]:
    """The same job with many hardware queues and with one."""
    policies = changes.pop("policies", {})
    played = [
        play(job(**changes, policies={**policies, "resources": {"max_connections": n}}))
        for n in (8, 1)
    ]
    return played[0], played[1]


JOBS: dict[str, dict[str, Any]] = {
    "tensor": {"parallel__tensor": 4},
    "data": {"policies": {"bucket": "8 MB"}},
    "fsdp": {"parallel__zero": 3},
    "blocking": {"parallel__pipeline": 4, "workload__global_batch": 16},
    "async": {
        "parallel": {"pipeline": 2, "virtual_stages": 2, "tensor": 2},
        "workload__global_batch": 16,
        "policies": {"schedule": "interleaved", "overlap": {"pipeline": "async"}},
    },
    "zero bubble": {"parallel__pipeline": 4, "policies": {"schedule": "zb_h1"}},
}


@pytest.mark.parametrize("name", JOBS)
def test_one_queue_starts_in_the_order_of_issue(name: str) -> None:
    """No task begins before one that the host issued earlier, whatever their lanes; a collective
    begins when its rank has come to it. With more queues some do."""
    many, one = one_queue(**JOBS[name])
    for number in range(len(one.record.classes)):
        spans = one.spans(number)
        begun = np.where(spans.lane == LANE["compute"], spans.start_ps, spans.ready_ps)
        assert (np.diff(begun) >= 0).all()
        usual = many.spans(number)
        assert np.array_equal(spans.alone_ps, usual.alone_ps)
    earlier = [
        np.diff(np.where(s.lane == LANE["compute"], s.start_ps, s.ready_ps)) < 0
        for s in (many.spans(n) for n in range(len(many.record.classes)))
    ]
    assert any(late.any() for late in earlier) or name in ("tensor", "blocking")


def test_one_queue_costs_fsdp_its_prefetch() -> None:
    """A gather issued a layer ahead holds back the kernels issued behind it until it starts."""
    many, one = one_queue(parallel__zero=3, workload__model=WIDE)
    assert one.accounts()[0]["exposed_dp"] > many.accounts()[0]["exposed_dp"]
    assert one.step_ps > many.step_ps


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_receives_posted_ahead_move_the_same(ahead: int) -> None:
    """Messages are the same however early their receives are posted, and where they cost nothing
    the step is too."""
    overlap = {"pipeline": "async", "receive_ahead": ahead}
    changes: dict[str, Any] = {"parallel__pipeline": 4, "workload__global_batch": 16}
    usual, played = (
        play(job(**changes, policies={"overlap": chosen}))
        for chosen in ({"pipeline": "async"}, overlap)
    )
    for number in range(len(usual.record.classes)):
        for name in ("recv forward", "send backward"):
            rows = played.rows(number, name), usual.rows(number, name)
            assert len(rows[0]) == len(rows[1])
    free = [
        play(instant(job(**changes, policies={"overlap": chosen})), host=0.0)
        for chosen in ({"pipeline": "async"}, overlap)
    ]
    assert free[0].step_ps == pytest.approx(free[1].step_ps, rel=1e-5)


def test_a_receive_is_posted_as_early_as_it_says() -> None:
    """A receive holds nothing before all that was computed ahead of its posting is done (PyTorch's
    stream of messages waits for the current one); one that is posted earlier is there no later."""
    ready = []
    for ahead in (0, 1, 2):
        played = play(
            job(
                parallel__pipeline=2,
                workload__global_batch=32,
                policies={"overlap": {"pipeline": "async", "receive_ahead": ahead}},
            )
        )
        spans = played.spans(1)
        rows = played.rows(1, "recv forward")
        computing = spans.lane == LANE["compute"]
        for row in rows:
            before = computing & (np.arange(len(spans)) < row)
            assert spans.ready_ps[row] >= spans.end_ps[before].max(initial=0)
        ready.append(spans.ready_ps[rows] - spans.start_ps[0])
    assert (ready[1] <= ready[0]).all()
    assert (ready[2] <= ready[1]).all()
    assert (ready[1] < ready[0]).any()
