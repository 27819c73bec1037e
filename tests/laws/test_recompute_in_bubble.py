"""Law: what is recomputed before the gradient arrives shortens the bubble, and changes no work."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import desim
from desim.api import predict
from desim.plan.passes import PassPolicy, restore_pass
from desim.plan.pipeline_step import stage_chunks
from desim.plan.recompute import Recompute
from desim.record import PS_PER_S
from desim.spec.scenario import Scenario
from tests.jobs import LANE, PHASE, Played, instant, job, passes_one_by_one, play, same_bits
from tests.laws.test_experts import MODEL
from tests.laws.test_folding import check

FORWARD_S, DGRAD_S, WGRAD_S = 1.0, 0.7, 1.6
TIMES = {"qkv": FORWARD_S, "qkv_dgrad": DGRAD_S, "qkv_wgrad": WGRAD_S}
#: A pass of a block forward and backward, with what runs again.
BLOCK_S = 2 * FORWARD_S + DGRAD_S + WGRAD_S
SCHEDULES: dict[str, dict[str, Any]] = {
    "gpipe": {},
    "1f1b": {},
    "interleaved": {"virtual_stages": 2},
    "breadth_first": {"virtual_stages": 2},
    "zb_h1": {},
    "zb_1p": {},
    "zb_v": {},
    "dualpipe": {},
    "dualpipe_v": {},
}
RECOMPUTED: dict[str, dict[str, Any]] = {
    "full": {"recompute": "full"},
    "some": {"recompute": "full", "recompute_layers": 1},
    "selective": {"recompute": "selective", "recompute_modules": ["core_attention", "norm", "mlp"]},
    "per_op": {"recompute": "per_op"},
}


def pipeline(
    schedule: str = "1f1b",
    ahead: int = 0,
    stages: int = 2,
    blocks: int = 2,
    micro_batches: int = 8,
    **policies: Any,
) -> Scenario:
    """A pipeline on 8 devices; `ahead` blocks run again before the gradient is there."""
    parallel = {"pipeline": stages, "zero": 0, **SCHEDULES[schedule]}
    chunks = stages * (
        2 if schedule in ("zb_v", "dualpipe_v") or "virtual_stages" in parallel else 1
    )
    choice = {"recompute_in": "bubble", "recompute_ahead": ahead} if ahead else {}
    return job(
        workload__model__layers=blocks * chunks,
        workload__global_batch=micro_batches * 8 // stages,
        parallel=parallel,
        policies={"schedule": schedule, "recompute": "full", **policies, **choice},
    )


def columns(played: Played, number: int) -> list[list[tuple[int, ...]]]:
    """Kernels of a program with phase, layer and micro-batch: in order, and sorted."""
    program = played.plan.programs[number]
    known = list(played.plan.context.tables.ops)
    rows = [
        (hash(known[op]), phase, layer, batch)
        for op, phase, layer, batch in zip(
            program.op.tolist(),
            program.phase.tolist(),
            program.layer.tolist(),
            program.micro_batch.tolist(),
            strict=True,
        )
        if op >= 0
    ]
    return [rows, sorted(rows)]


@pytest.mark.parametrize("p2p", ["blocking", "async"])
@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
@pytest.mark.parametrize(("stages", "micro_batches"), [(2, 4), (4, 4), (4, 9)])
@pytest.mark.parametrize("ahead", [0, 1, 2, 5])
def test_the_bubble_is_shorter_by_what_runs_ahead(
    ahead: int, stages: int, micro_batches: int, schedule: str, p2p: str
) -> None:
    """(p - 1)(F + B - n R): each gradient finds n blocks of R on the stage before run again."""
    scenario = pipeline(schedule, ahead, stages, 3, micro_batches, overlap={"pipeline": p2p})
    played = play(instant(scenario), lambda op: TIMES.get(op.name, 0.0), host=0.0)
    whole_s, hidden_s = 3 * BLOCK_S, min(ahead, 3) * FORWARD_S
    step_s = micro_batches * whole_s + (stages - 1) * (whole_s - hidden_s)
    assert played.step_ps == pytest.approx(step_s * PS_PER_S, rel=1e-7)


@pytest.mark.parametrize("recompute", RECOMPUTED)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_work_is_the_same_and_no_step_is_longer(schedule: str, recompute: str) -> None:
    """The same kernels for the same layers and micro-batches, as early or earlier; messages that
    take no time cannot be hindered by them."""
    policies = RECOMPUTED[recompute]
    late = play(instant(pipeline(schedule, **policies)))
    early = [play(instant(pipeline(schedule, ahead, **policies))) for ahead in (1, 2)]
    for played in early:
        for number in range(len(late.plan.programs)):
            assert columns(played, number)[1] == columns(late, number)[1]
        assert played.step_ps <= late.step_ps
    if schedule in ("gpipe", "1f1b"):
        assert early[0].step_ps < late.step_ps


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_longer_only_by_contention(schedule: str) -> None:
    """With messages as they are, what runs beside them is slower, and they are."""
    late, early = (play(pipeline(schedule, ahead)) for ahead in (0, 2))
    contended = max(account["contention"] for account in early.accounts())
    slowed = max(
        int((spans.end_ps - spans.start_ps)[spans.lane >= LANE["pp_send_forward"]].sum())
        for spans in (early.spans(number) for number in range(len(early.record.classes)))
    )
    assert early.step_ps <= late.step_ps + contended + slowed


def test_the_last_stage_and_no_pipeline_gain_nothing() -> None:
    """They wait for no gradient: their programs are the same, and one stage's step to a bit."""
    late, early = (play(pipeline("1f1b", ahead, stages=4)) for ahead in (0, 2))
    assert columns(early, 3)[0] == columns(late, 3)[0]
    assert all(columns(early, number)[0] != columns(late, number)[0] for number in range(3))
    alone = [play(pipeline("1f1b", ahead, stages=1)) for ahead in (0, 2)]
    assert same_bits(*alone)
    none = [play(pipeline("1f1b", ahead, recompute="none")) for ahead in (0, 2)]
    assert same_bits(*none)


@pytest.mark.parametrize("schedule", ["1f1b", "interleaved"])
def test_each_block_more_holds_what_it_restores(schedule: str) -> None:
    """The peak is in the backward pass of the first block: one block ahead is there then anyway."""
    late, *early = (
        play(pipeline(schedule, ahead, blocks=4)).record.memory[0].peak_bytes for ahead in range(5)
    )
    context = play(pipeline(schedule, blocks=4)).plan.context
    emit = context.emitter()
    policy = PassPolicy(recompute=Recompute("full", restored=1))
    restore_pass(emit, stage_chunks(context)[0][0], policy)
    restored = float(emit.finish().memory_bytes.sum())
    assert restored > 0
    assert early[0] == late
    assert np.diff(early).tolist() == [restored] * 3


@pytest.mark.parametrize("recompute", ["selective", "per_op"])
def test_runs_of_a_block_are_restored_together(recompute: str) -> None:
    """The peak grows by no more than what a block restores for each that is ahead."""
    late, *early = (
        play(pipeline(ahead=ahead, blocks=4, **RECOMPUTED[recompute])).record.memory[0].peak_bytes
        for ahead in range(4)
    )
    growth = np.diff([late, *early])
    assert (growth >= 0).all()
    assert growth[1:] == pytest.approx(growth[1], rel=1e-9)
    assert growth[0] <= growth[1]


@pytest.mark.parametrize("p2p", ["blocking", "async"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_folding_and_macro_tasks_are_exact(schedule: str, p2p: str) -> None:
    scenario = pipeline(schedule, 1, overlap={"pipeline": p2p})
    folded = check(scenario)
    with passes_one_by_one():
        assert same_bits(folded, play(scenario))


@pytest.mark.parametrize("schedule", ["1f1b", "interleaved"])
def test_time_is_folded_exactly(schedule: str) -> None:
    scenario = pipeline(schedule, 2, micro_batches=48)
    assert predict(scenario).step_time_s == desim.run(scenario).summary["step_time_s"]


@pytest.mark.parametrize("schedule", ["interleaved", "dualpipe"])
def test_joined_passes_begin_with_what_was_restored(schedule: str) -> None:
    """A turn of two passes waits for both inputs; the same work, and no longer."""

    def joined(ahead: int) -> Scenario:
        plain = pipeline(schedule, ahead)
        return job(
            workload__model={**MODEL, "layers": 4},
            workload__global_batch=32,
            parallel={"pipeline": 2, "zero": 1, "expert": 2, **SCHEDULES[schedule]},
            policies={
                "schedule": schedule,
                "recompute": "full",
                "recompute_in": plain.policies.recompute_in,
                "experts": {"passes": "joined"},
            },
        )

    late, early = check(joined(0)), check(joined(1))
    for number in range(2):
        assert columns(early, number)[1] == columns(late, number)[1]
    assert columns(early, 0)[0] != columns(late, 0)[0]
    late, early = (play(instant(joined(ahead))) for ahead in (0, 1))
    assert early.step_ps <= late.step_ps


def test_graphs_and_an_embedding_alone_on_a_stage() -> None:
    """A stage without blocks has nothing to run again; a captured pass is two graphs."""
    scenario = job(
        parallel={"pipeline": 4, "stage_layers": [0, 2, 2, 0]},
        policies={"recompute": "full", "recompute_in": "bubble", "recompute_ahead": 2},
        kernels={"cuda_graphs": True},
    )
    played = check(scenario)
    again = [int((p.phase == PHASE["recompute"]).sum()) for p in played.plan.programs]
    assert again[0] == again[3] == 0
    assert again[1] == again[2] > 0
