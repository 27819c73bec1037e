"""A device by itself: kernels on what communication leaves, and no earlier than they are issued."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from desim.engine.devices import Device
from desim.engine.environment import Clock
from desim.engine.expand import kernel_times
from desim.engine.host import Host
from desim.engine.timing import ALONE, KernelTimes, Timing
from desim.kernels.time import KernelTime
from desim.plan.tables import COMPUTE

SMS = 100
Hold = tuple[int, int, int]
"""Time, SMs, and parts per thousand of the memory bandwidth."""


def make_timing(kernels: list[KernelTime]) -> Timing:
    return Timing(KernelTimes(kernels, SMS), np.arange(len(kernels), dtype=np.int32), 1.0)


def play(
    timing: Timing, issue_ps: list[int], holds: list[Hold], *, whole: bool
) -> tuple[list[int], list[int]]:
    """Run all kernels, as one run or one by one; return when each starts and ends."""
    number = len(issue_ps)
    score = SimpleNamespace(issue_ps=issue_ps, host_waits=[(number, 0, number + 1)])
    clock = Clock()
    device = Device(clock, timing, Host(cast(Any, score)), list(range(number)))

    def begin(first: int) -> None:
        stop = number if whole else first + 1
        device.run(first, stop)

    def follow(first: int) -> None:
        if first < number:
            late = issue_ps[first] - int(clock.now)
            if late > 0:
                clock.after(late, lambda _: begin(first), None)
            else:
                begin(first)

    device.ended = follow
    clock.after(issue_ps[0], lambda _: begin(0), None)
    for at, sms, memory in holds:
        clock.after(at, lambda event: device.hold(*event.payload), (sms, memory))
    clock.run()
    track = SimpleNamespace(first=[0, number], number=1)
    rank = SimpleNamespace(device=device, tracks={COMPUTE: track})
    start, end = kernel_times(cast(Any, rank))
    return start.tolist(), end.tolist()


KERNELS = st.lists(
    st.builds(
        KernelTime, st.sampled_from([0.0, 7e-12, 50e-12]), st.sampled_from([3e-12, 40e-12]),
        st.sampled_from([0.0, 5e-12]),
    ),
    min_size=1,
    max_size=12,
)  # fmt: skip
HOLDS = st.lists(
    st.tuples(st.integers(0, 400), st.sampled_from([0, 20, 50]), st.sampled_from([0, 300])),
    max_size=5,
)


@given(KERNELS, st.lists(st.integers(1, 70), min_size=12, max_size=12), HOLDS, st.data())
def test_a_run_is_played_as_its_kernels(
    kernels: list[KernelTime], gaps: list[int], taken: list[Hold], data: st.DataObject
) -> None:
    """On a scale of picoseconds, where every tie between events comes up."""
    issue_ps = np.cumsum(gaps)[: len(kernels)].tolist()
    holds = list(taken)
    for at, sms, memory in taken:
        holds.append((at + data.draw(st.integers(0, 200)), -sms, -memory))
    timing = make_timing(kernels)
    start, end = play(timing, issue_ps, holds, whole=True)
    assert (start, end) == play(timing, issue_ps, holds, whole=False)
    free = [0, *end[:-1]]
    assert start == [max(pair) for pair in zip(issue_ps, free, strict=True)]
    alone = timing.durations(timing.number(ALONE))
    assert (np.array(end) - np.array(start) >= alone).all()


def test_a_faster_device_has_to_wait_for_its_host() -> None:
    """Half the SMs make kernels longer than their launches; once they are free, launches rule."""
    timing = make_timing([KernelTime(10e-12, 0.0, 0.0)] * 6)
    issue_ps = [0, 12, 24, 36, 48, 60]
    start, end = play(timing, issue_ps, [(0, 50, 0), (45, -50, 0)], whole=True)
    # 20 ps each until 45 ps, when the third has 15 of its 20 left: 7.5 at full speed, rounded up.
    assert start == [0, 20, 40, 53, 63, 73]
    assert end == [20, 40, 53, 63, 73, 83]
    slow = [0, 25, 50, 75, 100, 125]
    start, _ = play(timing, slow, [(0, 50, 0), (45, -50, 0)], whole=True)
    assert start == slow


@pytest.mark.parametrize(
    ("at", "held", "before", "left"),
    [
        (0, None, None, 10),
        (4, None, None, 6),
        (10, None, None, 30),
        (25, None, 1, 15),
        (25, None, 0, 0),
        (40, None, None, 0),
        (9, 5, None, 6),
    ],
)
def test_what_is_left_of_the_kernel_that_runs(
    at: int, held: int | None, before: int | None, left: int
) -> None:
    """At the present speed, from any instant inside it; 0 where none runs, or one issued later.

    From `held` on half of the SMs are taken: what was left of the first kernel takes twice as long.
    """
    timing = make_timing([KernelTime(10e-12, 0.0, 0.0), KernelTime(30e-12, 0.0, 0.0)])
    score = SimpleNamespace(issue_ps=[0, 0], host_waits=[(2, 0, 3)])
    clock = Clock()
    device = Device(clock, timing, Host(cast(Any, score)), [0, 1])
    device.ended = lambda _: None
    device.run(0, 2)
    if held is not None:
        clock.after(held, lambda _: device.hold(SMS // 2, 0), None)
    found: list[int] = []
    clock.after(at, lambda _: clock.late(lambda _: found.append(device.kernel_left_ps(before))), 0)
    clock.run()
    assert found == [left]


def test_communication_takes_sms_and_bandwidth() -> None:
    """The longer of the two rules, then the fixed part, which nothing stretches."""
    kernels = [KernelTime(4.0, 1.0, 0.5), KernelTime(1.0, 4.0, 0.5)]
    times = KernelTimes(kernels, SMS)
    assert times.under(ALONE) == pytest.approx([4.5, 4.5])
    assert times.under((20, 0)) == pytest.approx([4 / 0.8 + 0.5, 4.5])
    assert times.under((0, 200)) == pytest.approx([4.5, 4 / 0.8 + 0.5])
    assert times.under((20, 900)) == pytest.approx([1 / 0.1 + 0.5, 4 / 0.1 + 0.5])
    assert times.under((SMS, 1000)) == pytest.approx([40.5, 40.5])


def test_no_kernel_takes_no_time() -> None:
    """At least a picosecond, so that one comes after the other."""
    timing = make_timing([KernelTime(0.0, 0.0, 0.0)] * 3)
    assert timing.durations(timing.number(ALONE)).tolist() == [1, 1, 1]
