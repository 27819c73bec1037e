"""Laws of priorities: who takes SMs first, and who gets how much of a link that is full."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from desim.engine.links import fair_speeds
from desim.record import GROUP_OF_LANE, LANES
from tests.jobs import LANE, Played, instant, job, play, same_bits
from tests.laws.test_folding import check
from tests.laws.test_joined import pipeline
from tests.laws.test_resources import WIDE
from tests.laws.test_transfers import transfer

OVERLAPPED: dict[str, Any] = {
    "workload__model": WIDE,
    "workload__sequence_length": 8192,
    "policies__bucket": "50 MB",
}


def played(resources: dict[str, Any], **changes: Any) -> Played:
    return play(job(policies__resources=resources, **changes))


def test_a_collective_of_normal_priority_lets_the_kernel_that_runs_end() -> None:
    """So it does with one that begins as it is ready. With high priority it takes its SMs at
    once."""
    high, normal = (
        played({"high_priority": groups}, parallel__zero=0, **OVERLAPPED) for groups in (["dp"], [])
    )
    assert {waited for _, waited in admitted(high)} == {0}
    spans = normal.spans()
    kernels = spans.lane == LANE["compute"]
    found = admitted(normal)
    for at, waited in found:
        runs = kernels & (spans.start_ps <= at) & (spans.end_ps > at)
        assert [waited] == ([end - at for end in spans.end_ps[runs].tolist()] or [0])
    assert sum(waited > 0 for _, waited in found) > len(found) / 2


def admitted(one: Played) -> list[tuple[int, int]]:
    """When each reduction is issued and its dependencies done; how much later it was let in."""
    spans, causes = one.spans(), one.record.causes_of(0)
    found = []
    for row in one.rows(name="grad reduce"):
        waited = causes.waited[causes.first[row] : causes.first[row + 1]]
        ends = [spans.end_ps[other] for other in (*waited, causes.before[row]) if other >= 0]
        at = int(max([*ends, spans.issue_ps[row]]))
        found.append((at, int(spans.ready_ps[row]) - at))
    return found


@pytest.mark.parametrize("groups", [["dp"], ["pp"]])
def test_a_kernel_that_others_slow_down_is_waited_for_to_its_end(groups: list[str]) -> None:
    """With exchanges of joined passes and messages coming and going, kernels change their speed
    while collectives wait for them; none is admitted before the end, or after it in the next."""
    policies = {"overlap": {"pipeline": "async"}, "resources": {"high_priority": groups}}
    one = check(scenario := pipeline("dualpipe", layers=2, policies=policies))
    for record in (one.record, play(scenario, host=0.0).record):
        for spans in (record.spans_of(number) for number in range(len(record.classes))):
            kernels = np.flatnonzero(spans.lane == LANE["compute"])
            group = np.array([GROUP_OF_LANE[LANES[lane]] for lane in spans.lane])
            admitted = spans.ready_ps[~np.isin(group, ["compute", *groups])]
            last = np.searchsorted(spans.start_ps[kernels], admitted) - 1
            inside = spans.end_ps[kernels][last] > admitted
            assert not (inside & (last >= 0)).any()


def test_copies_wait_for_no_kernel() -> None:
    """Copy engines take no SMs: their lanes never yield, and by default none does."""
    default, normal = (
        played(resources).player.ranks[0] for resources in ({}, {"high_priority": []})
    )
    assert not default.yielding
    assert normal.yielding == set(LANE.values()) - {LANE[n] for n in ("compute", "h2d", "d2h")}


def test_a_priority_that_nothing_uses_changes_no_bit() -> None:
    """With no collective beside kernels, or none that takes SMs, the order of streams is moot."""
    alone: dict[str, Any] = {"policies__overlap": {"grad_reduce": "none", "param_gather": "none"}}
    assert same_bits(played({}, **alone), played({"high_priority": []}, **alone))
    free = [
        play(instant(job(policies__resources=resources, **OVERLAPPED)))
        for resources in ({}, {"high_priority": []})
    ]
    assert same_bits(*free)


@pytest.mark.parametrize(
    "changes",
    [
        {"parallel": {"tensor": 4}},
        {"parallel": {"zero": 3}},
        {"parallel": {"pipeline": 4}, "policies__overlap": {"pipeline": "async"}},
    ],
    ids=["tensor", "fsdp", "pipeline"],
)
def test_priorities_move_the_same_bytes_and_compute_the_same(changes: dict[str, Any]) -> None:
    """They decide when, never what."""
    usual, other = (
        played(resources, **changes)
        for resources in ({}, {"high_priority": [], "link_weights": {"pp": 4, "dp": 2}})
    )
    for number in range(len(usual.record.classes)):
        mine, others = usual.spans(number), other.spans(number)
        for column in ("size_bytes", "alone_ps", "name", "lane"):
            assert np.array_equal(getattr(mine, column), getattr(others, column))


def test_one_queue_starts_a_collective_before_the_kernel_issued_behind_it() -> None:
    """Why Megatron-LM asks for CUDA_DEVICE_MAX_CONNECTIONS=1: in the backward pass of a tensor-
    parallel layer collectives are issued before the product that they run beside, which would else
    take all SMs first."""
    changes: dict[str, Any] = {"parallel": {"tensor": 8, "sequence": True}, **OVERLAPPED}
    high, normal, ordered = (
        played(resources, **changes)
        for resources in (
            {"max_connections": 1},
            {"high_priority": []},
            {"high_priority": [], "max_connections": 1},
        )
    )
    assert normal.step_ps > 1.02 * high.step_ps
    assert same_bits(high, ordered)


@given(
    st.lists(
        st.tuples(st.floats(0.1, 8.0), st.floats(0.05, 1.0), st.floats(0.1, 1.0)),
        min_size=1,
        max_size=6,
    )
)
def test_a_full_link_is_shared_in_proportion_to_weights(
    flows: list[tuple[float, float, float]],
) -> None:
    """Who is held back by the link goes at one speed per weight, nobody faster by weight; the link
    is full or nobody is held back."""
    made = {
        number: transfer(1000, {0: use}, limit, weight=weight)
        for number, (weight, use, limit) in enumerate(flows)
    }
    speeds = fair_speeds(made)
    load = sum(t.uses[0][1] * speeds[n] for n, t in made.items())
    held = [n for n, t in made.items() if speeds[n] < t.limit * (1 - 1e-12)]
    assert load <= 1 + 1e-9
    if held:
        assert load == pytest.approx(1.0)
        level = max(speeds[n] / made[n].weight for n in held)
        for number, each in made.items():
            assert speeds[number] / each.weight <= level * (1 + 1e-9)
            assert number not in held or speeds[number] / each.weight == pytest.approx(level)


def test_weights_scaled_together_change_nothing() -> None:
    """Only their ratios count; a power of two keeps every bit."""
    changes: dict[str, Any] = {
        "cluster__devices": 16,
        "parallel": {"pipeline": 2},
        "policies__overlap": {"pipeline": "async"},
        "policies__bucket": "1 MB",
    }
    weights = {"tp": 4, "cp": 4, "ep": 4, "dp": 4, "pp": 4}
    assert same_bits(played({}, **changes), played({"link_weights": weights}, **changes))
