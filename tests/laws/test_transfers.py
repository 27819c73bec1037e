"""Laws of the network inside the engine: closed forms, fair shares, conservation of bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from desim.engine.environment import Clock
from desim.engine.links import RATE_UNIT, SharedLinks, fair_speeds
from desim.engine.transfers import Transfer
from desim.network.protocols import protocols_of
from desim.record import PS_PER_S
from desim.spec.scenario import Scenario
from tests.jobs import LANE, Played, job, play, with_system

SYSTEM = job().cluster.system
NVLINK = SYSTEM.device.nvlink_bytes_per_s * SYSTEM.nvlink_efficiency
NIC = SYSTEM.fabric.nic_bytes_per_s * SYSTEM.fabric.efficiency
NEAR_S, FAR_S = SYSTEM.nvlink_latency_s, SYSTEM.fabric.latency_s
ONCE_S = protocols_of(SYSTEM, "ring")[-1].base_s


def transfer(
    size: int,
    uses: dict[int, float],
    limit: float = 1.0,
    rate: float = 1e9,
    weight: float = 1.0,
) -> Transfer:
    """Make a transfer that takes `uses` of links at its full `rate`."""
    return Transfer(
        number=0,
        name="test",
        size_bytes=size,
        is_message=False,
        latency_ps=0,
        rate_bytes_per_s=rate,
        uses=tuple(uses.items()),
        limit=limit,
        fixed_ps=-1,
        sms=0,
        memory_permille=0,
        holds=False,
        weight=weight,
    )


# One collective alone


def only_reduction(scenario: Scenario) -> tuple[float, float]:
    """Size and duration in seconds of the single gradient reduction of a step."""
    played = play(scenario)
    spans = played.spans()
    (row,) = played.rows(name="grad reduce")
    ends = spans.end_ps[row] - spans.start_ps[row]
    assert ends == pytest.approx(spans.alone_ps[row], abs=2)
    return float(spans.size_bytes[row]), ends / PS_PER_S


ALONE = {
    "policies__overlap": {"grad_reduce": "none"},
    "policies__bucket": "100 GB",
    "policies__collectives": {"all_reduce": "ring", "reduce_scatter": "ring"},
}


@pytest.mark.parametrize("devices", [2, 4, 8])
def test_ring_all_reduce_inside_a_node(devices: int) -> None:
    """2 (n - 1) / n S / B + 2 (n - 1) a (Patarasu and Yuan 2009), and what Simple pays once."""
    scenario = job(cluster__devices=devices, parallel__zero=0, **ALONE)
    size, took = only_reduction(scenario)
    rounds = 2 * (devices - 1)
    assert took == pytest.approx(
        rounds / devices * size / NVLINK + rounds * NEAR_S + ONCE_S, rel=1e-9
    )


@pytest.mark.parametrize("devices", [2, 5, 8])
def test_ring_reduce_scatter_between_nodes_of_one_device(devices: int) -> None:
    """(n - 1) / n S / B + (n - 1) a, and what Simple pays once."""
    scenario = job(
        cluster__devices=devices, workload__global_batch=devices, parallel__zero=1, **ALONE
    )
    one_each = with_system(scenario, devices_per_node=1, nics_per_node=1, nvlink_domain=1)
    size, took = only_reduction(one_each)
    rounds = devices - 1
    assert took == pytest.approx(rounds / devices * size / NIC + rounds * FAR_S + ONCE_S, rel=1e-9)


# Messages that share a link


def message_times(nics: int, **changes: object) -> tuple[list[float], float]:
    """Durations of forward messages of two replicas between two nodes of two devices.

    Every device of the first node sends to its partner in the second; also returns S / B.
    """
    scenario = job(
        cluster__devices=4,
        parallel={"pipeline": 2, "zero": 0},
        workload__global_batch=2,
        **changes,
    )
    played = play(
        with_system(
            scenario,
            devices_per_node=2,
            nics_per_node=nics,
            nvlink_domain=2,
            communication={"beside_compute": 1.0},
        )
    )
    durations = []
    size = 0.0
    for number in range(len(played.record.classes)):
        spans = played.spans(number)
        for row in played.rows(number, "send forward"):
            durations.append(float(spans.end_ps[row] - spans.start_ps[row]) / PS_PER_S)
            size = float(spans.size_bytes[row])
    return durations, size / NIC


@pytest.mark.parametrize("fold", [True, False])
def test_two_equal_messages_on_one_nic_take_twice_as_long(fold: bool) -> None:
    alone, wire = message_times(2, run__fold=fold)
    shared, _ = message_times(1, run__fold=fold)
    assert alone == pytest.approx([wire + FAR_S] * len(alone), rel=1e-9)
    assert shared == pytest.approx([2 * wire + FAR_S] * len(shared), rel=1e-9)


def test_messages_that_overlap_in_part_share_only_then() -> None:
    """A slow device sends later: both messages are slowed by as long as they are together.

    B moved bytes over the NIC without a pause in between, so that with a delay d (of the second
    start after the first) the first takes (2 w - d) and the second as long.
    """
    calm, wire = message_times(1)
    late, _ = message_times(1, disturb=[{"device": 1, "compute": 0.999}])
    assert len(set(calm)) == 1
    assert len(late) == 2
    assert wire + FAR_S < late[0] < calm[0]
    assert late[0] == pytest.approx(late[1], rel=1e-6)


def play_flows(flows: list[tuple[int, Transfer]]) -> list[int]:
    """Start transfers at given picoseconds on shared links; return when each ends."""
    clock = Clock()
    moved: dict[int, float] = {}

    def observe(which: Transfer, start: int, end: int, rate: int) -> None:
        moved[id(which)] = moved.get(id(which), 0.0) + rate / RATE_UNIT * (end - start) / PS_PER_S

    links = SharedLinks(clock, observe)
    ends = [0] * len(flows)

    def start(index: int) -> None:
        def done() -> None:
            ends[index] = int(clock.now)

        links.start(flows[index][1], done)

    for index, (at, _) in enumerate(flows):
        clock.after(at, lambda event: start(event.payload), index)
    clock.run()
    for _, flow in flows:
        assert moved[id(flow)] == pytest.approx(flow.size_bytes, rel=1e-9)
    return ends


def test_a_late_flow_shares_from_when_it_comes() -> None:
    """1 GB at 1 GB/s; a second of 0.25 GB comes at 0.5 s: together until 1 s, then alone."""
    first, second = transfer(10**9, {0: 1.0}), transfer(25 * 10**7, {0: 1.0})
    assert play_flows([(0, first), (PS_PER_S // 2, second)]) == [
        int(1.25 * PS_PER_S),
        PS_PER_S,
    ]


def test_a_flow_with_a_limit_leaves_the_rest() -> None:
    """A flow that may run at a tenth leaves nine tenths of the link to the other."""
    slow, quick = transfer(10**8, {0: 1.0}, limit=0.1), transfer(9 * 10**8, {0: 1.0})
    assert play_flows([(0, slow), (0, quick)]) == [PS_PER_S, PS_PER_S]


def test_a_flow_stopped_elsewhere_leaves_its_share() -> None:
    """Bertsekas and Gallager, Data Networks, section 6.5.2: fill up to the tightest link first.

    Link 0 holds a, b and c, link 1 holds c and d at half capacity: c and d get 1/4 each there, a
    and b share the three quarters that c leaves.
    """
    flows = {
        "a": transfer(1, {0: 1.0}),
        "b": transfer(1, {0: 1.0}),
        "c": transfer(1, {0: 1.0, 1: 2.0}),
        "d": transfer(1, {1: 2.0}),
    }
    speeds = fair_speeds(flows)
    assert speeds == pytest.approx({"a": 0.375, "b": 0.375, "c": 0.25, "d": 0.25})


FLOWS = st.lists(
    st.tuples(
        st.dictionaries(st.integers(0, 5), st.floats(0.01, 4.0), min_size=1, max_size=4),
        st.sampled_from([0.05, 0.3, 0.9, 1.0]),
    ),
    min_size=1,
    max_size=12,
)


@given(FLOWS)
def test_fair_speeds_are_max_min(flows: list[tuple[dict[int, float], float]]) -> None:
    """No link is over its capacity, and no flow can rise without lowering one no faster.

    Such an allocation is the only one: each flow is at its limit or crosses a full link on which
    no other flow is faster (Bertsekas and Gallager, section 6.5.2).
    """
    transfers = {i: transfer(1, uses, limit) for i, (uses, limit) in enumerate(flows)}
    speeds = fair_speeds(transfers)
    assert set(speeds) == set(transfers)
    carried: dict[int, float] = {}
    fastest: dict[int, float] = {}
    for i, (uses, limit) in enumerate(flows):
        assert 0 < speeds[i] <= limit
        for link, use in uses.items():
            carried[link] = carried.get(link, 0.0) + use * speeds[i]
            fastest[link] = max(fastest.get(link, 0.0), speeds[i])
    assert all(load <= 1 + 1e-9 for load in carried.values())
    for i, (uses, limit) in enumerate(flows):
        bottlenecks = [
            link
            for link in uses
            if carried[link] >= 1 - 1e-9 and speeds[i] >= fastest[link] * (1 - 1e-9)
        ]
        assert speeds[i] >= limit or bottlenecks


# Bytes and capacities of whole jobs

JOBS = {
    "pipeline between nodes": {
        "cluster__devices": 32,
        "parallel": {"tensor": 2, "pipeline": 2},
    },
    "stages in turn on every rail": {
        "cluster__devices": 32,
        "workload__global_batch": 32,
        "parallel": {"tensor": 2, "pipeline": 4, "zero": 1, "order": "pp-tp-cp-ep-dp"},
        "policies": {"overlap": {"pipeline": "async"}},
    },
    "sharded": {
        "cluster__devices": 32,
        "workload__global_batch": 32,
        "parallel": {"zero": 3},
    },
    "degraded": {
        "cluster__devices": 32,
        "parallel": {"tensor": 4, "pipeline": 2},
        "disturb": [{"link": "rail1", "bandwidth": 0.4}],
    },
}


def crowded(name: str) -> Scenario:
    """A job of `JOBS` with two devices per NIC and switches of four ports: spines are crossed."""
    return with_system(
        job(**JOBS[name]), nics_per_node=4, fabric={"radix": 4, "oversubscription": 2.0}
    )


def carried(played: Played, kind: str) -> float:
    """Bytes over all links of a kind."""
    total = 0.0
    for link in played.record.links:
        if link.kind == kind:
            seconds = np.diff(link.time_ps) / PS_PER_S
            total += link.count * float((link.rate_bytes_per_s[:-1] * seconds).sum())
    return total


@pytest.mark.parametrize("name", JOBS)
def test_what_is_sent_is_received(name: str) -> None:
    played = play(crowded(name))
    for out, into in (("nvlink_out", "nvlink_in"), ("nic_out", "nic_in"), ("leaf_up", "leaf_down")):
        assert carried(played, out) == pytest.approx(carried(played, into), rel=1e-9)
        assert carried(played, out) > 0


def test_links_carry_what_the_spans_say() -> None:
    """With one replica only messages use the NICs: as many bytes as the sending spans hold.

    A transfer ends on a whole picosecond, in which a NIC carries 0.05 bytes.
    """
    scenario = job(
        cluster__devices=16, parallel={"tensor": 8, "pipeline": 2, "zero": 0}, run__steps=2
    )
    played = play(scenario)
    sent = 0.0
    for number, rank_class in enumerate(played.record.classes):
        spans = played.spans(number)
        for name in ("send forward", "send backward"):
            if name in played.record.names:
                sent += rank_class.count * float(spans.size_bytes[played.rows(number, name)].sum())
    assert sent > 0
    assert carried(played, "nic_out") == pytest.approx(sent, rel=1e-6)


@pytest.mark.parametrize("name", JOBS)
def test_links_are_never_over_their_capacity(name: str) -> None:
    played = play(crowded(name))
    assert any(link.kind == "leaf_up" for link in played.record.links)
    for link in played.record.links:
        assert link.rate_bytes_per_s.max() <= link.capacity_bytes_per_s * (1 + 1e-9)
        assert link.rate_bytes_per_s.min() >= 0
        assert link.rate_bytes_per_s[-1] == 0


@pytest.mark.parametrize("name", JOBS)
def test_a_transfer_is_never_faster_than_alone(name: str) -> None:
    """It is slower where others load its links, or compute slows the part inside its node; the
    sharded job's gathers have their links to themselves and take as long as their NICs do.
    """
    played = play(crowded(name))
    slowed = 0
    for number in range(len(played.record.classes)):
        spans = played.spans(number)
        moving = spans.lane != LANE["compute"]
        took = (spans.end_ps - spans.start_ps)[moving]
        assert (took >= spans.alone_ps[moving] - 2).all()
        slowed += int((took > spans.alone_ps[moving] + 2).sum())
    assert bool(slowed) == (name != "sharded")
