"""Law: what experts move, hold and cost, over every way of sharing them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from desim.plan.mesh import build_mesh
from desim.record import PS_PER_S
from desim.spec.scenario import Parallel
from tests.jobs import BASE, LANE, Played, job, play, with_system
from tests.laws.test_folding import AXES, check

MOE = {"experts": 8, "top_k": 2, "ffn": 512, "shared_ffn": 512, "dense_layers": 1}
MLA = {
    "q_rank": 256,
    "kv_rank": 128,
    "nope_head_dim": 64,
    "rope_head_dim": 32,
    "value_head_dim": 64,
}
MODEL = {**BASE["workload"]["model"], "gated": True, "ffn": 2048, "layers": 2, "moe": MOE}


def mixture(**changes: Any) -> Played:
    moe = {**MOE, **changes.pop("moe", {})}
    return play(job(workload__model={**MODEL, "moe": moe}, **changes))


@st.composite
def jobs(draw: st.DrawFn) -> dict[str, Any]:
    """A mixture on up to 32 ranks."""
    tensor, context = draw(st.sampled_from([1, 2])), draw(st.sampled_from([1, 1, 2]))
    pipeline, data = draw(st.sampled_from([1, 2])), draw(st.sampled_from([1, 2, 4]))
    devices = tensor * context * pipeline * data
    assume(devices < 8 or devices % 8 == 0)
    expert, expert_tensor = draw(st.sampled_from([1, 2, 4, 8])), draw(st.sampled_from([None, 1, 2]))
    assume(tensor * context * data % (expert * (expert_tensor or tensor)) == 0)
    moe = {
        **MOE,
        "dense_layers": draw(st.integers(0, 1)),
        "shared_ffn": draw(st.sampled_from([0, 512])),
        "capacity_factor": draw(st.sampled_from([None, 1.0, 1.5])),
    }
    latent = {"mla": MLA, "head_dim": 96} if draw(st.booleans()) else {}
    outer = ("pp",) if pipeline > 1 else ()
    inner = draw(st.permutations([axis for axis in AXES if axis not in outer]))
    return {
        "workload__model": {**MODEL, **latent, "moe": moe},
        "workload__global_batch": 2 * data,
        "cluster__devices": devices,
        "parallel": {
            "tensor": tensor,
            "context": context,
            "pipeline": pipeline,
            "expert": expert,
            "expert_tensor": expert_tensor,
            "zero": draw(st.sampled_from([0, 1])),
            "order": "-".join([*inner, *outer]),
        },
        "policies": {
            "recompute": draw(st.sampled_from(["none", "full"])),
            "overlap": {"grad_reduce": draw(st.sampled_from(["none", "bucketed"]))},
            "experts": {
                "shared": draw(st.sampled_from(["before", "beside"])),
                "chunks": draw(st.sampled_from([1, 1, 3])),
                "spread": draw(st.sampled_from([0.0, 0.0, 0.4])),
                "dispatch": draw(st.sampled_from(["all_to_all", "node_first"])),
            },
        },
        "disturb": draw(st.sampled_from([[], [{"device": 0, "compute": 0.7}]])),
    }


@settings(max_examples=12, deadline=None)
@given(jobs())
def test_folded_is_unfolded(changes: dict[str, Any]) -> None:
    check(job(**changes))


@pytest.mark.parametrize(
    ("tensor", "expert_tensor", "expert", "group"),
    [
        (2, 2, 4, [0, 2, 4, 6]),  # experts beside each other on the data ranks
        (2, 1, 4, [0, 1, 2, 3]),  # tensor ranks hold different experts
        (1, 1, 2, [0, 1]),
    ],
)
def test_expert_groups_are_megatrons(
    tensor: int, expert_tensor: int, expert: int, group: list[int]
) -> None:
    """With experts cut like the rest, an expert group has one rank per data rank."""
    data = 16 // tensor // 2
    parallel = Parallel(
        tensor=tensor, expert=expert, expert_tensor=expert_tensor, data=data, pipeline=2
    )
    mesh = build_mesh(parallel)
    assert mesh.experts is not None
    rows = mesh.experts.groups("ep")
    assert rows[0].tolist() == group
    assert sorted(rows.ravel().tolist()) == list(range(16))
    for axis in ("tp", "cp", "ep", "dp"):
        stage = mesh.coordinate("pp")[mesh.experts.groups(axis)]
        assert (stage == stage[:, :1]).all()


def sizes(played: Played, name: str) -> list[float]:
    return played.spans().size_bytes[played.rows(name=name)].tolist()


def test_every_token_is_sent_to_its_experts_and_back() -> None:
    played = mixture(parallel={"expert": 4})
    rows = 1024 * 2 * 1024 * 2.0  # tokens x top_k x hidden x bf16
    for name in ("dispatch", "combine", "dispatch_dy", "combine_dx"):
        assert set(sizes(played, name)) == {rows}
    assert "dispatch" not in mixture(parallel={"expert": 1}).record.names


def test_a_capacity_pads_every_expert_alike() -> None:
    played = mixture(parallel={"expert": 4}, moe={"capacity_factor": 1.3})
    each = -(-1024 * 2 * 1.3 // 8)
    assert set(sizes(played, "dispatch")) == {8 * each * 1024 * 2.0}


def test_gradients_of_experts_are_reduced_among_their_copies() -> None:
    """Experts over expert ranks: a copy less to reduce; the rest over all data ranks."""
    played = mixture(parallel={"expert": 4}, policies={"bucket": "1 GB"})
    experts = 2 * 3 * 1024 * 512  # two of eight experts on each rank
    groups = played.plan.wiring.members
    assert groups["edp"].shape == (4, 2)
    assert groups["dp"].shape == (1, 8)
    assert sizes(played, "expert grad reduce") == [4.0 * experts]
    whole = sum(layer.parameters for layer in played.plan.context.layers)
    (dense,) = sizes(played, "grad reduce")
    assert dense == pytest.approx(4.0 * (whole - experts), rel=1e-3)


@pytest.mark.parametrize("zero", [0, 1])
def test_memory_of_experts_follows_their_copies(zero: int) -> None:
    played = mixture(parallel={"expert": 4, "zero": zero})
    layers = played.plan.context.layers
    experts = sum(layer.expert_parameters for layer in layers)
    others = sum(layer.parameters for layer in layers) - experts
    ledger = played.plan.ledgers[0]
    held = dict(zip(ledger.owners, ledger.by_owner[:, 0], strict=True))
    assert held["parameters"] == 2.0 * (experts + others)
    shards = (8, 2) if zero else (1, 1)
    assert held["optimizer"] == pytest.approx(12.0 * (others / shards[0] + experts / shards[1]))


def test_only_dropless_experts_stop_the_host() -> None:
    """The host waits for the counts once a layer and pass; with a capacity it runs ahead."""
    waits = {
        factor: np.unique(
            mixture(moe={"capacity_factor": factor}).plan.programs[0].host_waits[:, 0]
        )
        for factor in (None, 1.0)
    }
    assert len(waits[None]) > len(waits[1.0])


@pytest.mark.parametrize("recipe", ["delayed", "tensorwise"])
def test_experts_follow_the_recipe(recipe: str) -> None:
    """Products of experts run in the recipe's format, with one conversion an operand."""
    precision = {"recipe": recipe}
    played = mixture(parallel={"expert": 4}, workload__precision=precision)
    ops = [op for op in played.plan.context.tables.ops if op.kind == "grouped_gemm"]
    assert {op.dtype for op in ops} == {"fp8"}
    assert {op.name for op in ops} >= {"experts_gate_up", "experts_down_dgrad"}


@pytest.mark.parametrize(
    "policy", [{"shared": "beside"}, {"chunks": 4}, {"shared": "beside", "chunks": 2}]
)
@pytest.mark.parametrize("recompute", ["none", "full"])
def test_no_overlap_changes_bytes_or_work(policy: dict[str, Any], recompute: str) -> None:
    """Whatever runs beside the all-to-alls: as many bytes are moved and as many FLOPs done."""
    changes = {"parallel": {"expert": 4}, "policies": {"recompute": recompute}}
    plain = mixture(**changes)
    hidden = mixture(**{**changes, "policies": {"recompute": recompute, "experts": policy}})
    assert moved(hidden) == pytest.approx(moved(plain))
    assert work(hidden) == pytest.approx(work(plain), rel=1e-3)
    assert hidden.record.memory[0].peak_bytes == pytest.approx(
        plain.record.memory[0].peak_bytes, rel=0.1
    )


def moved(played: Played) -> float:
    spans = played.spans()
    return float(spans.size_bytes[spans.lane == LANE["ep"]].sum())


def work(played: Played, number: int = 0) -> float:
    ops = list(played.plan.context.tables.ops)
    numbers = played.plan.programs[number].op
    return sum(ops[i].flops for i in numbers[numbers >= 0])


def exposed(played: Played) -> int:
    return sum(account["exposed_ep"] for account in played.accounts())


def test_a_shared_expert_hides_all_to_alls() -> None:
    """With a shared expert that takes longer than the all-to-alls only the counts are exposed; one
    that takes no time hides nothing. Steps lie between the longer and the sum."""

    def steps(seconds: float) -> tuple[Played, Played]:
        def times(op: Any) -> float:
            return seconds if op.name.startswith("shared_") and op.kind == "gemm" else 1e-9

        jobs = [
            free(job(workload__model=MODEL, parallel__expert=8, policies={"experts": policy}))
            for policy in ({}, {"shared": "beside"})
        ]
        alone, beside = (play(job_, times=times, host=0.0) for job_ in jobs)
        return alone, beside

    alone, beside = steps(1e-3)
    spans = alone.spans()
    sent = [row for row in np.flatnonzero(spans.lane == LANE["ep"])]
    total = sum(int(spans.end_ps[row] - spans.start_ps[row]) for row in sent)
    counts = [row for row in sent if row in set(alone.rows(name="token_counts"))]
    left = sum(int(spans.end_ps[row] - spans.start_ps[row]) for row in counts)
    assert exposed(alone) == pytest.approx(total, rel=1e-2)
    assert exposed(beside) == pytest.approx(left, rel=1e-2)
    assert beside.step_ps == pytest.approx(alone.step_ps - (total - left), rel=1e-3)
    alone, beside = steps(1e-9)
    assert beside.step_ps == pytest.approx(alone.step_ps, rel=1e-2)


def free(scenario: Any) -> Any:
    """Communication takes nothing from kernels and they nothing from it; no latency."""
    return with_system(
        scenario,
        communication={"beside_compute": 1.0, "nvlink_sms": 0, "network_sms": 0, "message_sms": 0},
        nvlink_latency_s=0.0,
    )


@pytest.mark.parametrize("ratio", [0.5, 2.0])
def test_many_chunks_of_experts_tend_to_the_ideal(ratio: float) -> None:
    """1/n of the dispatch is before and 1/n of the return after, and in between are n times the
    longer of 1/n of the products and of what travels beside: for large n the longer of both."""
    over = []
    for chunks in (2, 8, 32):
        scenario = job(
            workload__model={**MODEL, "moe": {**MOE, "shared_ffn": 0}},
            parallel__expert=8,
            policies={"experts": {"chunks": chunks}},
        )
        rows = 1024 * 2 * (1024 * 2.0 * 2 + 4)  # tokens x top_k x (there and back, probabilities)
        system = scenario.cluster.system
        link = system.device.nvlink_bytes_per_s * system.nvlink_efficiency
        travel_s = 7 / 8 * rows / link
        work_s = travel_s / ratio

        def times(op: Any, share: float = work_s / chunks) -> float:
            return share if op.name == "experts_gate_up" else 1e-12

        played = play(free(scenario), times=times, host=0.0)
        spans = played.spans()
        first, last = played.rows(name="dispatch")[0], played.rows(name="unpermute")[0]
        took_s = (spans.start_ps[last] - spans.start_ps[first]) / PS_PER_S
        over.append(took_s / max(work_s, travel_s) - 1)
    assert over[0] > over[1] > over[2] > -1e-3
    assert over[2] < 0.1


def test_imbalance_slows() -> None:
    even, uneven = (
        mixture(parallel={"expert": 8}),
        mixture(parallel={"expert": 8}, moe={"imbalance": 2.0}),
    )
    assert uneven.step_ps > even.step_ps
