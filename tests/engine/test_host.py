"""The host issues tasks ahead of the device and stops at sync points."""

from __future__ import annotations

import numpy as np
import pytest

from desim.kernels.software import stack
from desim.record import PS_PER_S
from tests.jobs import LANE, PHASE, Played, job, play

LAUNCH_PS = 50_000_000
ONE = {"cluster__devices": 1, "workload__global_batch": 2}


def by_phase(played: Played, phase: str) -> np.ndarray:
    return np.flatnonzero(played.spans().phase == PHASE[phase])


def test_a_launch_bound_device_waits_for_every_kernel() -> None:
    """Kernels of a few microseconds, 50 us apart; only the optimizer step is longer than that."""
    played = play(job(**ONE, kernels={"launch": "50 us"}))
    spans = played.spans()
    short = np.flatnonzero(spans.alone_ps < LAUNCH_PS)
    assert len(short) > 0.9 * len(spans)
    assert (np.diff(spans.issue_ps) >= LAUNCH_PS).all()
    late = short[1:][spans.end_ps[short[1:] - 1] <= spans.issue_ps[short[1:]]]
    assert (spans.start_ps[late] == spans.issue_ps[late]).all()
    account = played.accounts()[0]
    assert account["launch"] > account["compute"]
    assert account["launch"] + account["compute"] + account["optimizer"] == played.step_ps


def test_a_fast_host_runs_ahead_until_it_reads_the_norm() -> None:
    """All of a step is issued while its first kernels run; then the host waits for the norm."""
    played = play(job(**ONE, kernels={"launch": "0.1 us"}))
    spans = played.spans()
    norm = played.rows(name="grad_norm")[0]
    assert (np.diff(spans.issue_ps[: norm + 1]) == 100_000).all()
    assert spans.issue_ps[norm] < spans.end_ps[norm] // 2
    (update,) = played.rows(name="clip")
    assert update == norm + 1
    assert spans.issue_ps[update] == spans.end_ps[norm] + 100_000
    assert spans.start_ps[update] == spans.issue_ps[update]


def test_a_host_that_logs_the_loss_waits_once_per_step() -> None:
    played = play(job(**ONE, kernels={"launch": "0.1 us"}, policies__sync="step", run__steps=2))
    spans = played.spans()
    first = played.rows(name="zero_gradients")
    updates = played.rows(name="model_parameters")
    held = np.flatnonzero(np.diff(spans.issue_ps) != 100_000) + 1
    assert held.tolist() == [first[1]]
    assert spans.issue_ps[first[1]] == spans.end_ps[updates[0]] + 100_000


def test_a_host_that_never_waits_is_ahead_by_steps() -> None:
    played = play(job(**ONE, kernels={"launch": "0.1 us"}, policies__sync="none", run__steps=3))
    spans = played.spans()
    assert (np.diff(spans.issue_ps) == 100_000).all()
    last = played.rows(name="zero_gradients")[-1]
    assert spans.issue_ps[last] < spans.start_ps[last] // 10
    assert played.accounts()[0]["launch"] == 0


def test_collectives_cost_the_host_more_than_kernels() -> None:
    """By the constants of the software stack."""
    played = play(job(cluster__devices=2, parallel__tensor=2, policies__sync="none"))
    spans = played.spans()
    cost = np.diff(spans.issue_ps)
    of_kernels = spans.lane[1:] == LANE["compute"]
    costs = stack(played.plan.scenario.kernels)
    assert set(cost[of_kernels].tolist()) == {round(costs.launch_s * PS_PER_S)}
    assert set(cost[~of_kernels].tolist()) == {round(costs.collective_launch_s * PS_PER_S)}


def test_a_captured_pass_is_one_launch() -> None:
    """All kernels of a pass are issued together, one graph launch after what came before."""
    played = play(job(**ONE, kernels={"cuda_graphs": True}, policies__sync="none"))
    spans = played.spans()
    launch_ps = round(stack(played.plan.scenario.kernels).graph_launch_s * PS_PER_S)
    for phase in ("forward", "backward"):
        rows = by_phase(played, phase)
        for micro_batch in (0, 1):
            one = rows[spans.micro_batch[rows] == micro_batch]
            assert len(set(spans.issue_ps[one].tolist())) == 1
            assert spans.issue_ps[one[0]] - spans.issue_ps[one[0] - 1] == launch_ps


@pytest.mark.parametrize(("mode", "holds_back"), [("blocking", True), ("async", False)])
def test_blocking_messages_hold_the_host_back(mode: str, holds_back: bool) -> None:
    """After a blocking receive (`batch_p2p_sync`) nothing is issued before it is done."""
    played = play(
        job(
            parallel__pipeline=2,
            policies={"overlap": {"pipeline": mode}},
            workload__global_batch=16,
        )
    )
    for number in (0, 1):
        spans = played.spans(number)
        received = played.rows(number, "recv forward") + played.rows(number, "recv backward")
        early = 0
        for row in received:
            # Early receives of the async mode are posted before the pass that runs meanwhile.
            following = row + 1
            early += int(spans.issue_ps[following] < spans.end_ps[row])
        assert (early == 0) == holds_back
