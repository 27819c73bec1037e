"""Law: what unequal loads of experts and limits on the nodes of a token cost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from desim.spec.loads import expert_loads, nodes_reached
from desim.spec.mixture import Mixture
from tests.jobs import Played, job, play, with_system
from tests.laws.test_experts import MODEL, MOE, mixture, sizes, work
from tests.laws.test_folding import check

LOAD = (1.0, 1.0, 3.0, 1.0)


def test_uneven_loads_split_ranks_and_conserve_work() -> None:
    """A rank computes its own load; together they compute what even ranks do; the busiest leads."""
    changes: dict[str, Any] = {"parallel": {"expert": 4, "zero": 0}}
    even = mixture(**changes)
    uneven = mixture(**changes, policies={"experts": {"load": LOAD}})
    assert len(even.record.classes) == 1
    assert sorted(c.count for c in uneven.record.classes) == [2, 6]
    grouped = [
        sum(
            op.flops
            for op in np.array(list(uneven.plan.context.tables.ops))[program.op[program.op >= 0]]
            if op.kind == "grouped_gemm"
        )
        for program in uneven.plan.programs
    ]
    assert grouped[0] == pytest.approx(3 * grouped[1], rel=1e-2)
    ranks = np.bincount(uneven.plan.program_of)
    whole = sum(work(uneven, number) * count for number, count in enumerate(ranks.tolist()))
    assert whole == pytest.approx(8 * work(even), rel=1e-2)
    assert set(sizes(uneven, "dispatch")) == {1024 * 2 * 1024 * 2.0 * 3 / 1.5}
    assert uneven.step_ps > even.step_ps
    waits = [account["waiting"] for account in uneven.accounts()]
    busiest = [number for number, c in enumerate(uneven.record.classes) if c.coordinate["ep"] == 2]
    assert all(waits[number] < max(waits) for number in busiest)


def test_equal_loads_are_no_loads() -> None:
    plain = mixture(parallel={"expert": 4})
    given_ = mixture(parallel={"expert": 4}, policies={"experts": {"load": [5, 5, 5, 5]}})
    assert given_.step_ps == plain.step_ps
    assert len(given_.record.classes) == len(plain.record.classes)


def test_a_drawn_spread_is_the_seeds() -> None:
    def steps(seed: int) -> int:
        experts = {"experts": {"spread": 0.5}}
        drawn = job(workload__model=MODEL, parallel={"expert": 4}, policies=experts, run__seed=seed)
        return play(drawn, host=0.0).step_ps

    assert steps(1) == steps(1) != steps(2)


def test_drawn_loads_are_few_and_keep_the_mean_and_the_busiest() -> None:
    """32 ranks of one expert each: at most 8 loads, of mean 1, the largest as it was drawn."""
    scenario = job(
        workload__model={**MODEL, "moe": {**MOE, "experts": 32}},
        workload__global_batch=32,
        cluster__devices=32,
        parallel={"expert": 32},
        policies={"experts": {"spread": 0.5}},
        run__seed=3,
    )
    loads = np.array(expert_loads(scenario))
    drawn = np.random.default_rng(3).lognormal(0.0, 0.5, 32)
    assert len(set(loads.tolist())) == 8
    assert loads.mean() == pytest.approx(1.0)
    assert loads.max() == pytest.approx(drawn.max() / drawn.mean())
    assert np.argmax(loads) == np.argmax(drawn)
    assert np.abs(loads - drawn / drawn.mean()).mean() < 0.1


@pytest.mark.parametrize("schedule", ["1f1b", "zb_h1", "zb_1p", "zb_v", "dualpipe", "dualpipe_v"])
def test_uneven_loads_fold_under_every_schedule(schedule: str) -> None:
    check(
        job(
            workload__model={**MODEL, "layers": 4, "moe": MOE},
            workload__global_batch=16,
            cluster__devices=16,
            parallel={"expert": 4, "pipeline": 2, "tensor": 2, "expert_tensor": 1, "zero": 1},
            policies={
                "schedule": schedule,
                "experts": {"load": LOAD, "shared": "beside", "chunks": 2},
            },
        )
    )


def wide(**experts: Any) -> Played:
    """16 expert ranks in four nodes of 4, 32 experts, 8 for each token."""
    moe = {**MOE, "experts": 32, "top_k": 8}
    scenario = job(
        workload__model={**MODEL, "moe": moe},
        workload__global_batch=16,
        cluster__devices=16,
        parallel={"expert": 16, "zero": 0},
        policies={"experts": experts, "collectives": {"all_to_all": "two_level"}},
    )
    return play(with_system(scenario, devices_per_node=4, nics_per_node=4, nvlink_domain=4))


def loads(played: Played) -> tuple[float, float]:
    """Bytes per byte of an all-to-all over all links inside nodes, and between them."""
    wiring = played.plan.wiring
    uses = zip(played.plan.context.tables.comms, wiring.uses, strict=True)
    (number,) = {use.profile for comm, use in uses if comm.collective == "all_to_all"}
    profile = wiring.profiles[number]
    outside = profile.link >= wiring.topology.start("nic_out")
    return float(profile.load[~outside].sum()), float(profile.load[outside].sum())


@pytest.mark.parametrize("limit", [None, 1, 2, 3])
def test_a_row_crosses_once_to_each_node(limit: int | None) -> None:
    """Inside nodes as many bytes as before; between them those of the nodes that a token reaches,
    over those of its experts."""
    plain, first = loads(wide()), loads(wide(dispatch="node_first", max_nodes=limit))
    moe = Mixture(experts=32, top_k=8, ffn=512)
    assert first[0] == pytest.approx(plain[0])
    assert first[1] == pytest.approx(plain[1] * nodes_reached(moe, 4, limit) / 8)


def test_fewer_nodes_are_never_slower() -> None:
    steps = [wide(dispatch="node_first", max_nodes=limit).step_ps for limit in (1, 2, 3, 4)]
    assert steps == sorted(steps)
    assert steps[-1] == wide(dispatch="node_first").step_ps < wide().step_ps


def test_nodes_reached_are_those_of_random_choices() -> None:
    """Against counting: choices of k of 32 experts on the nodes allowed, 4 of 8 experts each."""
    random = np.random.default_rng(0)
    for top_k, limit in ((1, None), (2, None), (8, None), (8, 2), (6, 1)):
        moe = Mixture(experts=32, top_k=top_k, ffn=512)
        on = random.permuted(np.tile(np.arange(8 * (limit or 4)), (20_000, 1)), axis=1)
        counted = np.mean([len(set(row)) for row in (on[:, :top_k] // 8).tolist()])
        assert nodes_reached(moe, 4, limit) == pytest.approx(counted, rel=0.01)
