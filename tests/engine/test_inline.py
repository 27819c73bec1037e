"""Collectives played as kernels: the same step to the picosecond, for fewer events."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from desim.engine.inline import inline
from desim.engine.observe import step_time_ps
from desim.engine.simulate import measure_step_ps, simulate
from desim.plan.build import build_plan
from desim.plan.program import Program
from desim.plan.tables import COMPUTE
from desim.spec.scenario import Scenario
from tests.engine.test_segments import JOBS
from tests.jobs import BASE, job, play_plan

MODEL = {**BASE["workload"]["model"], "layers": 8}


def same_step(scenario: Scenario) -> None:
    """Both ways of playing a plan take the same time."""
    plan = build_plan(scenario)
    assert measure_step_ps(plan) == simulate(plan).step_time_ps


@pytest.mark.parametrize("name", JOBS)
def test_usual_jobs_take_the_same_time(name: str) -> None:
    same_step(job(**JOBS[name]))


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_any_job_takes_the_same_time(data: st.DataObject) -> None:
    """Groups inside and across nodes, hosts that are late, what runs beside, several chunks."""
    tensor, pipeline = data.draw(st.sampled_from([(1, 4), (2, 2), (2, 1), (4, 2), (8, 2), (8, 1)]))
    context = data.draw(st.sampled_from([1, 2])) if tensor < 8 else 1
    names = ["1f1b", "interleaved", "zb_h1", "gpipe"] if pipeline > 1 else ["1f1b"]
    schedule = data.draw(st.sampled_from(names))
    sequence = data.draw(st.booleans()) and tensor > 1
    overlap = ["none", "megatron", "chunked"] if sequence else ["none", "megatron"]
    same_step(
        job(
            cluster__devices=16,
            workload__model=MODEL,
            workload__sequence_length=data.draw(st.sampled_from([64, 1024])),
            workload__global_batch=16 // (tensor * pipeline * context) * pipeline * 2,
            kernels={"launch": data.draw(st.sampled_from(["1 us", "5 us", "30 us"]))},
            parallel={
                "tensor": tensor,
                "pipeline": pipeline,
                "context": context,
                "virtual_stages": 2 if schedule == "interleaved" else 1,
                "zero": data.draw(st.sampled_from([0, 1])),
                "sequence": sequence,
            },
            policies__schedule=schedule,
            policies__sync=data.draw(st.sampled_from(["none", "step", "grad_norm"])),
            policies__overlap__pipeline=data.draw(st.sampled_from(["blocking", "async"])),
            policies__overlap__tensor=data.draw(st.sampled_from(overlap)),
            policies__recompute=data.draw(st.sampled_from(["none", "full"])),
        )
    )


def whole_program(**changes: Any) -> tuple[Program, Program]:
    """A program, and the same with all its collectives that can be inlined."""
    plan = build_plan(job(workload__model=MODEL, **changes))
    program = plan.programs[0]
    ops = {number: 1000 + number for number in range(len(plan.context.tables.comms))}
    return program, inline(program, ops)


def test_exposed_collectives_are_inlined_and_no_others() -> None:
    """Without overlap all of tensor parallelism is; what kernels run beside stays on its lane."""
    program, inlined = whole_program(
        parallel={"tensor": 8}, policies__overlap={"tensor": "none", "grad_reduce": "none"}
    )
    layers = (program.layer >= 0) & (program.comm >= 0)
    assert layers.sum() > 0
    assert (inlined.comm[layers] < 0).all()
    beside, kept = whole_program(parallel={"tensor": 8}, policies__overlap__tensor="chunked")
    assert (kept.comm >= 0).sum() > 0.2 * (beside.comm >= 0).sum()


def test_order_on_lanes_is_kept() -> None:
    """Every task keeps its place in the program, its lane's order and what it waits for."""
    before, after = whole_program(parallel={"tensor": 2, "context": 2})
    moved = before.lane != after.lane
    assert moved.any()
    assert (after.lane[moved] == COMPUTE).all()
    assert (after.op[moved] == 1000 + before.comm[moved]).all()
    assert len(after) == len(before)
    assert (np.diff(after.waits[:, 0]) >= 0).all()
    assert (after.waits[:, 1] != after.lane[after.waits[:, 0]]).all()


def test_a_slow_device_is_played_as_it_is() -> None:
    """Where devices differ in speed nothing is inlined, and nothing changes."""
    plan = build_plan(job(parallel={"tensor": 4}, disturb=[{"device": 3, "compute": 0.5}]))
    played = play_plan(plan)
    assert measure_step_ps(plan) == step_time_ps(plan, played.player)
