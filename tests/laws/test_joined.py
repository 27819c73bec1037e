"""Law: a forward and a backward pass whose kernels take turns (`policies.experts.passes`)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from desim.engine.simulate import measure_folded, measure_step_ps
from desim.plan.build import build_plan
from desim.plan.pipeline_step import stage_chunks
from desim.plan.schedules import SCHEDULES as ORDERS
from desim.spec.scenario import Scenario
from tests.jobs import LANE, PHASE, Played, instant, job, play, with_system
from tests.laws.test_bubble import CLOSE
from tests.laws.test_experts import MODEL, MOE, free, moved, work
from tests.laws.test_folding import check

SCHEDULES = {
    "1f1b": (1, 1),
    "interleaved": (2, 2),
    "dualpipe": (4, 1),
    "dualpipe_v": (2, 2),
}
EXCHANGES = ("dispatch", "combine", "dispatch_dy", "combine_dx")
EVEN = {"dense_layers": 0, "capacity_factor": 1.0}


def pipeline(
    schedule: str,
    passes: str = "joined",
    micro_batches: int = 8,
    layers: int = 2,
    moe: dict[str, Any] | None = None,
    **changes: Any,
) -> Scenario:
    """Chunks of `layers` blocks with experts, over groups of four ranks that hold two each."""
    stages, chunks = SCHEDULES[schedule]
    policies = changes.pop("policies", {})
    experts = {"passes": passes, **policies.pop("experts", {})}
    parts = stages * chunks
    return job(
        workload__model={
            **MODEL,
            "layers": layers * parts,
            "moe": {**MOE, **EVEN, **(moe or {})},
        },
        workload__global_batch=micro_batches * 4,
        cluster__devices=4 * stages if stages > 1 else 4,
        parallel={
            "expert": 4,
            "pipeline": stages,
            "virtual_stages": chunks,
            **changes.pop("parallel", {}),
        },
        policies={"schedule": schedule, "experts": experts, **policies},
        **changes,
    )


def both(schedule: str, **changes: Any) -> tuple[Played, Played]:
    """A job with its passes apart, and joined."""
    apart, joined = (play(pipeline(schedule, passes, **changes)) for passes in ("apart", "joined"))
    return apart, joined


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("recompute", ["none", "full"])
@pytest.mark.parametrize("delayed", [False, True])
def test_bytes_and_work_stay(schedule: str, recompute: str, delayed: bool) -> None:
    policies = {"recompute": recompute, "experts": {"delay_wgrad": delayed}}
    apart, joined = both(schedule, policies=policies, moe={"dense_layers": 1})
    if delayed:
        apart = play(
            pipeline(schedule, "apart", policies={"recompute": recompute}, moe={"dense_layers": 1})
        )
    for number, program in enumerate(joined.plan.programs):
        assert len(program) == len(apart.plan.programs[number])
        assert work(joined, number) == work(apart, number)
    assert moved(joined) == moved(apart)
    assert joined.step_ps < apart.step_ps


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_each_pass_keeps_its_order_and_waits_for_its_own(schedule: str) -> None:
    """Apart from the other micro-batches, a program has the same tasks in the same order, and what
    each of them waits for on another lane is the same task as before."""
    scenarios = [
        pipeline(schedule, passes, moe={"capacity_factor": None}) for passes in ("apart", "joined")
    ]
    for apart, joined in zip(*(build_plan(each).programs for each in scenarios), strict=True):
        for micro_batch in range(8):
            for phase in (PHASE["forward"], PHASE["backward"]):
                rows = [
                    np.flatnonzero(
                        (p.micro_batch == micro_batch) & (p.phase == phase) & (p.layer >= 0)
                    )
                    for p in (apart, joined)
                ]
                for column in ("lane", "name", "kind", "layer", "op", "host_ps"):
                    first, second = (
                        getattr(apart, column)[rows[0]],
                        getattr(joined, column)[rows[1]],
                    )
                    assert (first == second).all(), column
                assert awaited(apart, rows[0]) == awaited(joined, rows[1])


def awaited(program: Any, rows: Any) -> set[tuple[int, int]]:
    """(task, awaited task) among the tasks `rows`, which are numbered from 0."""
    place = {task: number for number, task in enumerate(rows.tolist())}
    lanes = {lane: np.flatnonzero(program.lane == lane) for lane in range(len(LANE))}
    waits = program.waits[np.isin(program.waits[:, 0], rows)].tolist()
    pairs = ((place[task], int(lanes[lane][count - 1])) for task, lane, count in waits)
    return {(task, place[other]) for task, other in pairs if other in place}


def test_exchanges_and_kernels_alternate_as_published() -> None:
    """DeepSeek-AI 2024, figure 4, of a block: the combine of the backward pass beside the forward
    pass's attention, the dispatch of the forward pass beside the experts backward, theirs back
    beside the experts forward, and the combine of the forward pass beside attention backward."""
    played = play(pipeline("1f1b", layers=1))
    spans, names = played.spans(), played.record.names
    middle = np.flatnonzero(
        ((spans.micro_batch == 3) & (spans.phase == PHASE["backward"]))
        | ((spans.micro_batch == 4) & (spans.phase == PHASE["forward"]))
    )
    wanted = ("attention", "experts_gate_up", "experts_gate_up_dgrad", "attention_backward")
    order = [names[spans.name[row]] for row in middle]
    order = [name for name in order if name in (*EXCHANGES, *wanted)]
    assert order == [
        "dispatch_dy",
        "attention",
        "dispatch",
        "experts_gate_up_dgrad",
        "combine_dx",
        "experts_gate_up",
        "combine",
        "attention_backward",
    ]


def seconds_of(
    played: Played, passes: tuple[tuple[int, str], ...], number: int = 0
) -> tuple[int, int, int]:
    """Time from the first task of passes to their last, of their kernels and of exchanges."""
    spans = played.spans(number)
    inside = np.zeros(len(spans), dtype=bool)
    for micro_batch, phase in passes:
        inside |= (spans.micro_batch == micro_batch) & (spans.phase == PHASE[phase])
    inside &= spans.layer >= 0
    took = spans.end_ps - spans.start_ps
    compute, sent = (int(took[inside & (spans.lane == LANE[n])].sum()) for n in ("compute", "ep"))
    return int(spans.end_ps[inside].max() - spans.start_ps[inside].min()), compute, sent


@pytest.mark.parametrize("passes", ["apart", "joined"])
def test_delayed_weight_gradients_run_beside_the_exchange_that_follows(passes: str) -> None:
    """Those of the experts after their input's gradient is sent, those of attention at the end of
    the pass or after the next exchange begins."""
    scenario = pipeline("1f1b", passes, layers=2, policies={"experts": {"delay_wgrad": True}})
    played = play(scenario)
    spans, names = played.spans(), played.record.names
    rows = np.flatnonzero((spans.micro_batch == 3) & (spans.phase == PHASE["backward"]))
    order = [names[spans.name[row]] for row in rows]
    block = ["dispatch_dy", "experts_up_dgrad", "combine_dx", "experts_up_wgrad", "qkv_dgrad"]
    kept = [name.replace("gate_up", "up") for name in order]
    kept = [name for name in kept if name in (*block, "qkv_wgrad")]
    assert kept == [*block, "dispatch_dy", "qkv_wgrad", *block[1:], "qkv_wgrad"]


def test_a_delayed_weight_gradient_hides_an_exchange() -> None:
    """Of one block, whose experts' weight gradients take longer than the exchange after them."""
    whole = []
    for delayed in (False, True):
        policies = {"experts": {"delay_wgrad": delayed}}
        played = play(
            free(pipeline("1f1b", "apart", layers=1, policies=policies)),
            lambda op: 1e-3 if op.name == "experts_gate_up_wgrad" else 1e-12,
            host=0.0,
        )
        whole.append(seconds_of(played, ((3, "backward"),))[0])
        spans = played.spans()
        (row,) = [r for r in played.rows(name="combine_dx") if spans.micro_batch[r] == 3]
        took = int(spans.end_ps[row] - spans.start_ps[row])
    assert whole[0] - whole[1] == pytest.approx(took, rel=1e-6)


@pytest.mark.parametrize("passes", ["apart", "joined"])
def test_delayed_weight_gradients_expose_reductions_of_the_tensor_group(passes: str) -> None:
    """Under sequence parallelism an input's gradient is reduced beside the weight gradient, if that
    is computed there and then."""
    changes = {"tensor": 2, "sequence": True, "expert": 2, "expert_tensor": 1}
    usual, delayed = (
        play(
            pipeline(
                "1f1b", passes, parallel=changes, policies={"experts": {"delay_wgrad": chosen}}
            )
        )
        for chosen in (False, True)
    )
    exposed = [sum(a["exposed_tp"] for a in one.accounts()) for one in (usual, delayed)]
    assert exposed[1] > 1.05 * exposed[0]
    assert work(delayed) == work(usual)


def test_full_recomputation_leaves_half_of_a_backward_pass_beside_nothing() -> None:
    """It has four exchanges in each block, the forward pass beside it two."""
    played = play(pipeline("1f1b", layers=2, policies={"recompute": "full"}))
    spans, names = played.spans(), played.record.names
    forward = (spans.micro_batch == 4) & (spans.phase == PHASE["forward"])
    backward = (spans.micro_batch == 3) & (spans.phase != PHASE["forward"])
    exchange = np.isin(spans.name, [names.index(name) for name in EXCHANGES])
    last, rows = np.flatnonzero(forward & exchange).max(), np.flatnonzero(backward & exchange)
    assert len(rows) == 8
    kept = [names[spans.name[row]] for row in rows if row > last]
    assert kept == ["dispatch", "combine", "dispatch_dy", "combine_dx"]


@pytest.mark.parametrize("attention_s", [1e-5, 1e-3])
@pytest.mark.parametrize("experts_s", [1e-5, 1e-3])
@pytest.mark.parametrize("capacity", [None, 1.0])
def test_a_joint_pass_takes_between_the_longer_and_the_sum(
    attention_s: float, experts_s: float, capacity: float | None
) -> None:
    """max(F_compute + B_compute, F_exchange + B_exchange) <= F&B <= F + B where neither hinders the
    other; what is computed where all exchanges are shorter than any kernel beside them."""
    times = {
        "qkv": attention_s,
        "qkv_dgrad": attention_s,
        "experts_gate_up": experts_s,
        "experts_gate_up_dgrad": experts_s,
    }
    apart, joined = (
        play(
            free(pipeline("1f1b", passes, layers=3, moe={"capacity_factor": capacity})),
            lambda op: times.get(op.name, 1e-12),
            host=0.0,
        )
        for passes in ("apart", "joined")
    )
    forward, backward = (
        seconds_of(apart, ((k, name),)) for k, name in ((4, "forward"), (3, "backward"))
    )
    whole, compute, sent = seconds_of(joined, ((4, "forward"), (3, "backward")))
    assert compute == forward[1] + backward[1]
    assert sent == pytest.approx(forward[2] + backward[2], rel=1e-6)
    assert max(compute, sent) <= whole <= forward[0] + backward[0]
    if capacity and attention_s == experts_s == 1e-3:
        assert whole == pytest.approx(compute, rel=1e-6)
    else:
        assert whole < forward[0] + backward[0]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_without_communication_nothing_changes(schedule: str) -> None:
    """F&B = F + B: the step is as long, with a pass more before the steady phase as without."""
    times = {"qkv": 1.0, "qkv_dgrad": 1.3, "qkv_wgrad": 0.9}
    apart, joined = (
        play(
            instant(pipeline(schedule, passes, 12, 1, parallel={"zero": 0})),
            lambda op: times.get(op.name, 0.0),
            host=0.0,
        )
        for passes in ("apart", "joined")
    )
    assert joined.step_ps == pytest.approx(apart.step_ps, rel=CLOSE)
    for before, after in zip(apart.accounts(), joined.accounts(), strict=True):
        assert after["bubble"] == pytest.approx(before["bubble"], abs=CLOSE * apart.step_ps)


@pytest.mark.parametrize("passes", ["apart", "joined"])
@pytest.mark.parametrize(("stages", "micro_batches"), [(2, 4), (4, 8), (4, 14), (8, 16)])
def test_the_bubble_of_dualpipe(stages: int, micro_batches: int, passes: str) -> None:
    """(p/2 - 1)(F&B + B - 3W) of DeepSeek-AI 2024, table 2, with F&B as long as it is played: here
    F&B < F + B, as passes that are joined hide their exchanges and others wait for them.

    Of the middle stages; those before them have more passes alone, and their exchanges take of the
    bubble.
    """
    times = {"qkv": 1.0, "qkv_dgrad": 1.5, "qkv_wgrad": 0.5, "experts_gate_up": 1.0}
    times |= {"experts_gate_up_dgrad": 1.0, "experts_gate_up_wgrad": 0.4}
    scenario = job(
        workload__model={**MODEL, "layers": stages, "moe": {**MOE, **EVEN}},
        workload__global_batch=micro_batches * 8,
        cluster__devices=8 * stages,
        parallel={"expert": 8, "pipeline": stages, "zero": 0},
        policies={
            "schedule": "dualpipe",
            "overlap": {"grad_reduce": "none"},
            "experts": {"passes": passes},
        },
    )
    slow = with_system(instant(scenario), device={"nvlink_bytes_per_s": 4e7})
    played = play(slow, lambda op: times.get(op.name, 0.0), host=0.0)
    middle = stages // 2 - 1
    order = ORDERS["dualpipe"](middle, stages, micro_batches, 1)
    whole = [(item.micro_batch, "backward") for item in order if item.kind == "whole"]
    forward_ps, *_ = seconds_of(played, ((0, "forward"),), middle)
    whole_ps, *_ = seconds_of(played, (whole[0],), middle)
    both_ps = forward_ps + whole_ps
    if passes == "joined":
        at = next(at for at, item in enumerate(order) if item.kind == "joined")
        pair = ((order[at - 1].micro_batch, "forward"), (order[at].micro_batch, "backward"))
        assert seconds_of(played, pair, middle)[0] < 0.95 * both_ps
        both_ps = seconds_of(played, pair, middle)[0]
    accounts = played.accounts()
    rest_ps = played.step_ps - max(account["exposed_dp"] for account in accounts)
    rest_ps -= accounts[middle]["compute"] + accounts[middle]["exposed_ep"]
    bubble_ps = (stages / 2 - 1) * (both_ps + whole_ps - 3 * 0.9e12)
    assert rest_ps == pytest.approx(bubble_ps, abs=1e-6 * played.step_ps)


@st.composite
def jobs(draw: st.DrawFn) -> Scenario:
    """A job whose passes are joined, with what else experts and stages may do."""
    schedule = draw(st.sampled_from(list(SCHEDULES)))
    return pipeline(
        schedule,
        moe={
            "dense_layers": draw(st.integers(0, 1)),
            "capacity_factor": draw(st.sampled_from([None, 1.5])),
        },
        parallel={
            "tensor": (tensor := draw(st.sampled_from([1, 2]))),
            "expert_tensor": draw(st.sampled_from([1, tensor])),
            "expert": 2,
            "zero": draw(st.sampled_from([0, 1])),
        },
        policies={
            "recompute": draw(st.sampled_from(["none", "full"])),
            "overlap": {
                "grad_reduce": draw(st.sampled_from(["none", "bucketed"])),
                "pipeline": draw(st.sampled_from(["blocking", "async"])),
            },
            "resources": {"max_connections": draw(st.sampled_from([1, 8]))},
            "experts": {
                "shared": draw(st.sampled_from(["before", "beside"])),
                "chunks": draw(st.sampled_from([1, 1, 2])),
                "spread": draw(st.sampled_from([0.0, 0.4])),
                "delay_wgrad": draw(st.booleans()),
            },
        },
        disturb=draw(st.sampled_from([[], [{"device": 0, "compute": 0.7}]])),
    )


@settings(max_examples=8, deadline=None)
@given(jobs())
def test_waits_are_in_the_order_of_tasks(scenario: Scenario) -> None:
    """What reads a program finds the waits of a task together."""
    for program in build_plan(scenario).programs:
        for rows in (program.waits, program.host_waits):
            assert (np.diff(rows[:, 0]) >= 0).all()


@settings(max_examples=6, deadline=None)
@given(jobs())
def test_folded_is_unfolded(scenario: Scenario) -> None:
    check(scenario)


@pytest.mark.parametrize("schedule", ["1f1b", "interleaved"])
def test_time_folded_is_whole(schedule: str) -> None:
    """Micro-batches that repeat are left out, and the step takes as long to the picosecond."""
    scenario = pipeline(schedule, "joined", 40, 1)
    plan = build_plan(scenario, 8)
    assert plan.programs[0].left_out > 0
    assert measure_folded(plan) == measure_step_ps(build_plan(scenario))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_delayed_weight_gradients_hold_their_inputs_meanwhile(schedule: str) -> None:
    """What they need is held longer, less than a block's, and all of it is given back."""
    usual, delayed = (
        play(pipeline(schedule, policies={"experts": {"delay_wgrad": chosen}}))
        for chosen in (False, True)
    )
    for before, after in zip(usual.plan.ledgers, delayed.plan.ledgers, strict=True):
        more = after.peak_bytes / before.peak_bytes
        assert 1 - 1e-9 <= more < 1.1
        owners = [after.owners.index(owner) for owner in before.owners]
        assert after.by_owner[owners, -1] == pytest.approx(before.by_owner[:, -1])
        assert after.by_owner[:, -1].sum() == pytest.approx(before.by_owner[:, -1].sum())


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_memory_is_that_of_one_micro_batch_more(schedule: str) -> None:
    """One more forward pass under 1F1B and interleaved 1F1B, none under DualPipe; and all of it is
    given back."""
    apart, joined = both(schedule)
    for number, chunks in enumerate(stage_chunks(joined.plan.context)):
        before, after = apart.plan.ledgers[number], joined.plan.ledgers[number]
        at = before.owners.index("activations")
        saved = max(
            sum(module.saved_bytes for _, layer in chunk for module in layer.modules)
            for chunk in chunks
        )
        more = saved if schedule in ("1f1b", "interleaved") else 0.0
        assert after.by_owner[at].max() <= before.by_owner[at].max() + more
        assert after.by_owner[at].max() > before.by_owner[at].max() or not more
        assert after.by_owner[:, -1] == pytest.approx(before.by_owner[:, -1])
