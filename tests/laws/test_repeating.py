"""Law: micro-batches that repeat, played once, take what all of them take."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from desim.api import predict
from desim.engine.environment import Clock
from desim.engine.observe import step_time_ps
from desim.engine.parts import parts_of
from desim.engine.simulate import make_ranks, measure_folded, measure_step_ps
from desim.engine.steady import SteadyPlayer
from desim.engine.transfers import TransferTable
from desim.plan.build import build_plan
from desim.plan.repeat import is_periodic, shorten
from desim.plan.schedules import SCHEDULES
from desim.spec.scenario import Scenario
from tests.jobs import BASE, job

MODEL = BASE["workload"]["model"]


def folded(scenario: Scenario, how: str | bool) -> Scenario:
    """The scenario with time folded another way."""
    run = scenario.run.model_copy(update={"fold_time": how})
    return scenario.model_copy(update={"run": run})


def in_full(scenario: Scenario) -> Scenario:
    """The scenario with every micro-batch played."""
    return folded(scenario, False)


@st.composite
def jobs(draw: st.DrawFn) -> Scenario:
    """A job on 8 devices with enough micro-batches for some of them to repeat."""
    pipeline = draw(st.sampled_from([1, 1, 2, 4]))
    tensor = draw(st.sampled_from([1, 2]))
    data = 8 // (pipeline * tensor)
    names = ["1f1b", "1f1b", "interleaved", "zb_h1", "zb_1p", "zb_v"] if pipeline > 1 else ["1f1b"]
    schedule = draw(st.sampled_from(names))
    chunks = 2 if schedule in ("interleaved", "zb_v") else 1
    zero = draw(st.sampled_from([0, 1, 2, 3] if pipeline == 1 else [0, 1]))
    micro_batches = pipeline * draw(st.integers(5, 12)) + (
        0 if chunks > 1 else draw(st.integers(12, 15))
    )
    slow = {"device": draw(st.integers(0, 7)), "compute": draw(st.sampled_from([0.99, 0.7]))}
    return job(
        disturb=draw(st.sampled_from([[], [slow]])),
        workload__model={**MODEL, "layers": pipeline * chunks * draw(st.sampled_from([1, 2]))},
        workload__sequence_length=draw(st.sampled_from([64, 512])),
        workload__global_batch=data * micro_batches,
        parallel={
            "tensor": tensor,
            "pipeline": pipeline,
            "virtual_stages": chunks,
            "zero": zero,
            "sequence": draw(st.booleans()),
        },
        policies__schedule=schedule,
        policies__sync=draw(st.sampled_from(["none", "step", "grad_norm"])),
        policies__overlap__pipeline=draw(st.sampled_from(["blocking", "async"])),
        policies__recompute=draw(st.sampled_from(["none", "full"])),
        policies__resources__high_priority=draw(st.sampled_from([["tp", "dp", "pp"], ["dp"], []])),
        run={"steps": draw(st.sampled_from([1, 1, 2]))},
    )


@settings(max_examples=5, deadline=None)
@given(jobs())
def test_left_out_micro_batches_change_nothing(scenario: Scenario) -> None:
    """To the picosecond and the byte where states have to repeat, else to the pace's tolerance."""
    plan = build_plan(scenario, 6)
    if plan.programs[0].left_out:
        assert all(is_periodic(program) for program in plan.programs)
        folded_ps = measure_folded(plan)
        assert folded_ps in (None, measure_step_ps(build_plan(scenario)))
    whole = predict(in_full(scenario))
    assert predict(scenario) == whole
    steady = predict(folded(scenario, "pace"))
    assert steady.allocated_bytes == whole.allocated_bytes
    assert steady.step_time_s == pytest.approx(whole.step_time_s, rel=5e-3)


FOLDED: dict[str, dict[str, Any]] = {
    "1f1b": {"parallel": {"pipeline": 4}},
    "async": {"parallel": {"pipeline": 4}, "policies__overlap__pipeline": "async"},
    "interleaved": {
        "parallel": {"pipeline": 2, "virtual_stages": 2},
        "policies__schedule": "interleaved",
    },
    "zb_h1": {"parallel": {"pipeline": 4}, "policies__schedule": "zb_h1"},
    "FSDP": {"parallel": {"zero": 3}},
    "FSDP2": {"parallel": {"zero": 3}, "policies__fsdp": {"issue": "implicit"}},
    "every": {"parallel": {"pipeline": 4}, "policies__reduce_every_micro_batch": True},
    "priorities": {
        "parallel": {"pipeline": 4, "tensor": 2},
        "policies__resources": {"high_priority": [], "link_weights": {"pp": 4}},
    },
    "one queue": {"parallel": {"pipeline": 4}, "policies__resources": {"max_connections": 1}},
    "accumulation": {"parallel": {"zero": 1, "tensor": 2}},
}


@pytest.mark.parametrize("changes", FOLDED.values(), ids=FOLDED)
def test_usual_jobs_are_folded(changes: dict[str, Any]) -> None:
    """Most micro-batches are left out, and the step takes as long."""
    scenario = job(workload__global_batch=8 * 36, **changes)
    plan = build_plan(scenario, 8)
    assert plan.programs[0].left_out > 0
    assert len(plan.programs[0]) < 0.8 * len(build_plan(scenario).programs[0])
    assert measure_folded(plan) == measure_step_ps(build_plan(scenario))


def player_of(scenario: Scenario) -> tuple[SteadyPlayer, int]:
    """A player of the job that has left periods out, and the step time that it found."""
    plan = build_plan(scenario, 8)
    clock = Clock()
    ranks = make_ranks(plan, TransferTable(plan), clock)
    player = SteadyPlayer(clock, ranks, at_pace=False)
    player.run()
    assert player.folded
    return player, step_time_ps(plan, player)


def test_replicas_of_unlike_speed_repeat_each_for_itself() -> None:
    """Between the ends of a step they do not meet: each of them leaves out its own time."""
    slow = [{"device": 0, "compute": 0.9}]
    scenario = job(
        workload__global_batch=4 * 36,
        workload__sequence_length=8192,
        parallel={"tensor": 2},
        disturb=slow,
    )
    player, step_ps = player_of(scenario)
    assert len({id(watch.part) for watch in player.watches}) == 2
    lengths = {watch.gone.length_ps for watch in player.watches if watch.gone is not None}
    assert len(lengths) == 2
    assert step_ps == measure_step_ps(build_plan(scenario))


def test_replicas_that_meet_every_micro_batch_are_one_part() -> None:
    """FSDP gathers and reduces in every micro-batch: the slow rank is felt by all."""
    slow = [{"device": 0, "compute": 0.9}]
    scenario = job(workload__global_batch=8 * 36, parallel={"zero": 3}, disturb=slow)
    plan = build_plan(scenario, 8)
    ranks = make_ranks(plan, TransferTable(plan), Clock())
    assert [len(part) for part in parts_of(ranks)] == [plan.folding.ranks.number]


#: Stages with less to do get further ahead with every micro-batch, hosts too.
DRIFTING: dict[str, dict[str, Any]] = {
    "1f1b": {
        "workload__model": {**MODEL, "layers": 7},
        "workload__global_batch": 2 * 38,
        "workload__sequence_length": 2048,
        "parallel": {"pipeline": 4, "stage_layers": [3, 1, 2, 1]},
        "policies__overlap__pipeline": "async",
    },
    "zb_h1": {
        "workload__model": {**MODEL, "layers": 5},
        "workload__global_batch": 4 * 26,
        "workload__sequence_length": 512,
        "parallel": {"pipeline": 2, "stage_layers": [2, 3]},
        "policies__schedule": "zb_h1",
        "policies__overlap__pipeline": "async",
        "policies__recompute": "full",
    },
    "host": {
        "workload__model": {**MODEL, "layers": 2},
        "workload__global_batch": 4 * 38,
        "workload__sequence_length": 2048,
        "parallel": {"tensor": 2, "zero": 1},
    },
}


@pytest.mark.parametrize("changes", DRIFTING.values(), ids=DRIFTING)
def test_what_drifts_evenly_is_carried_on(changes: dict[str, Any]) -> None:
    """Times that move by as much in every period do so in those left out: the same picosecond."""
    scenario = job(**changes)
    player, step_ps = player_of(scenario)
    gone = [watch.gone for watch in player.watches if watch.gone is not None]
    assert any(any(each.drift_ps) for each in gone)
    assert step_ps == measure_step_ps(build_plan(scenario))


def test_random_times_do_not_repeat() -> None:
    """Jitter makes every micro-batch its own: nothing is left out."""
    scenario = job(workload__global_batch=8 * 36, disturb=[{"jitter": 0.02}])
    assert predict(scenario) == predict(in_full(scenario))


def test_states_that_differ_are_not_taken_for_equal() -> None:
    """Kernels that get slower with every period leave no period to repeat."""
    from dataclasses import replace

    plan = build_plan(job(workload__global_batch=8 * 36, parallel={"pipeline": 4}), 8)
    late = [replace(p, host_ps=p.host_ps * (1 + p.micro_batch)) for p in plan.programs]
    assert not any(is_periodic(program) for program in late)
    assert measure_folded(replace(plan, programs=tuple(late))) is None


@given(st.integers(2, 8), st.integers(1, 3), st.integers(1, 12))
def test_shortened_orders_are_those_of_fewer_micro_batches(
    stages: int, chunks: int, rounds: int
) -> None:
    """Leaving periods out of 1F1B and interleaved orders gives their orders of a smaller batch."""
    name = "interleaved" if chunks > 1 else "1f1b"
    many = stages * rounds * 2
    orders = [SCHEDULES[name](s, stages, many, chunks) for s in range(stages)]
    short = shorten(orders, many, (1, stages), 4)
    if short is not None:
        few = short.micro_batches
        assert few < many
        assert short.orders == [SCHEDULES[name](s, stages, few, chunks) for s in range(stages)]
