"""Law: what each schedule holds at most, in activations of one micro-batch on one stage.

A stage of p holds M_B for each micro-batch that is forward but not yet backward, here counted until
the weight gradients are done, as in Qi et al. 2024 (arXiv:2401.10241), table 2, where W keeps all.
"""

from __future__ import annotations

import pytest

from desim.plan.schedules import SCHEDULES
from desim.plan.schedules.automatic import automatic
from desim.plan.schedules.costs import Costs
from desim.plan.schedules.passes import Pass
from tests.jobs import job, play

STAGES = [2, 4, 8]


def held(order: list[Pass], *, split: bool, kept: float = 1.0) -> float:
    """Most chunk activations that an order holds; `kept` of one waits for weight gradients."""
    after = kept if split else 0.0
    change = {"forward": 1.0, "backward": after - 1.0, "weight": -kept, "whole": -1.0}
    change["joined"] = -1.0
    most = now = 0.0
    for item in order:
        now += change[item.kind]
        most = max(most, now)
    return most


def orders(name: str, stages: int, micro_batches: int, chunks: int = 1) -> list[list[Pass]]:
    return [SCHEDULES[name](s, stages, micro_batches, chunks) for s in range(stages)]


def searched(stages: int, micro_batches: int, limit: float, chunks: int = 1) -> list[list[Pass]]:
    table = ((1.0 / chunks,) * chunks,) * stages
    kept = ((1.0,) * chunks,) * stages
    costs = Costs(table, table, table, kept, 0.0, chunks == 2)
    return automatic(costs, micro_batches, limit, joined=False)


@pytest.mark.parametrize("stages", STAGES)
def test_one_chunk_per_stage(stages: int) -> None:
    """Narayanan et al. 2021, 2.2.1: p - s on stage s of 1F1B, m of GPipe; Qi et al., table 2."""
    m = 3 * stages
    assert [held(o, split=False) for o in orders("1f1b", stages, m)] == [
        stages - s for s in range(stages)
    ]
    assert {held(o, split=False) for o in orders("gpipe", stages, m)} == {m}
    assert {held(o, split=True) for o in orders("zb_h1", stages, m)} == {stages}
    assert {held(o, split=True) for o in orders("zb_h2", stages, m)} == {2 * stages - 1}


@pytest.mark.parametrize("stages", STAGES)
@pytest.mark.parametrize("chunks", [2, 3, 4])
def test_interleaved_and_breadth_first(stages: int, chunks: int) -> None:
    """Interleaved: 1 + (p - 1) / (p v) as much as 1F1B, of chunks of 1 / v; breadth-first: all m.

    Korthikanti et al. 2022 (arXiv:2205.05198), section 4.2.3; Lamy-Poirier 2023, section 4.1.
    """
    m = 3 * stages
    first = held(orders("interleaved", stages, m, chunks)[0], split=False) / chunks
    assert first == pytest.approx(stages * (1 + (stages - 1) / (stages * chunks)))
    every = {held(o, split=False) / chunks for o in orders("breadth_first", stages, m, chunks)}
    assert every == {m}


@pytest.mark.parametrize("stages", STAGES)
@pytest.mark.parametrize("longer", [0, 1, 2, 5])
def test_longer_rounds_hold_more(stages: int, longer: int) -> None:
    """One round of r micro-batches: the chunks before the last hold r each, not p."""
    chunks, size = 3, stages + longer % stages
    first = held(orders("interleaved", stages, size, chunks)[0], split=False)
    assert first == min((chunks - 1) * size + 2 * stages - 1, chunks * size)


@pytest.mark.parametrize("stages", STAGES)
def test_dualpipe(stages: int) -> None:
    """DeepSeek-AI 2024 (arXiv:2412.19437), table 2: p + 1; its V on p stages: 2p + 1 chunks."""
    for m in (2 * stages, 2 * stages + 2, 5 * stages):
        assert {held(o, split=True) for o in orders("dualpipe", stages, m)} == {stages + 1}
        assert {held(o, split=True) for o in orders("dualpipe_v", stages, m)} == {2 * stages + 1}


@pytest.mark.parametrize("stages", STAGES)
@pytest.mark.parametrize("limit", [1.0, 1.25, 1.5, 2.0, 3.0])
def test_the_limit_of_a_search_is_kept(stages: int, limit: float) -> None:
    """`policies.schedule_memory`: no stage holds more than that times p; ZB-V no more than p."""
    m = 5 * stages
    assert max(held(o, split=True) for o in searched(stages, m, limit)) <= limit * stages
    in_a_v = searched(stages, m, 1.0, chunks=2)
    assert max(held(o, split=True) / 2 for o in in_a_v) <= stages


def activations(**policies: object) -> list[float]:
    """Most bytes of activations on each of four stages, as the ledger has them."""
    chunks = policies.pop("virtual_stages", 1)
    scenario = job(
        workload__model__layers=8,
        workload__global_batch=2 * 8,
        parallel={"pipeline": 4, "virtual_stages": chunks, "zero": 0},
        policies=policies,
    )
    ledgers = play(scenario).plan.ledgers
    row = ledgers[0].owners.index("activations")
    # The embedding, the head and their ends are not on the stages in the middle.
    return [float(ledger.by_owner[row].max()) for ledger in ledgers[1:3]]


def test_the_ledger_holds_what_orders_say() -> None:
    """Middle stages of the engine's plan, by 1F1B's: 3 and 2 micro-batches of four stages."""
    plain = activations(schedule="1f1b")
    each = plain[0] / 3
    assert plain[1] == pytest.approx(2 * each)
    for policies, most in (
        ({"schedule": "gpipe"}, 8),
        ({"schedule": "breadth_first", "virtual_stages": 2}, 8),
        ({"schedule": "dualpipe"}, 5),
        ({"schedule": "dualpipe_v"}, 4.5),
    ):
        for value in activations(**policies):
            # What waits for weight gradients is less than the whole of a micro-batch's.
            assert most - 1 < value / each < most + 0.01, (policies, value / each)


def test_dualpipe_holds_parameters_twice() -> None:
    """Each stage holds the parts of two: as many parameters over all stages, twice."""
    totals, gradients = {}, {}
    for schedule in ("zb_h1", "dualpipe", "dualpipe_v"):
        scenario = job(
            workload__model__layers=8,
            workload__global_batch=2 * 8,
            parallel={"pipeline": 4, "zero": 1},
            policies={"schedule": schedule},
        )
        plan = play(scenario).plan
        for held, owner in ((totals, "parameters"), (gradients, "gradients")):
            rows = [ledger.owners.index(owner) for ledger in plan.ledgers]
            held[schedule] = sum(
                float(ledger.by_owner[row, 0])
                for ledger, row in zip(plan.ledgers, rows, strict=True)
            )
    for held in (totals, gradients):
        assert held["dualpipe"] == 2 * held["zb_h1"]
        assert held["dualpipe_v"] == held["zb_h1"]


def test_dualpipe_adds_up_the_gradients_of_both_ways() -> None:
    """One all-reduce of pairs of stages: what each rank has left of the gradients, once a step."""
    scenario = job(
        workload__model__layers=8,
        workload__global_batch=2 * 8,
        parallel={"pipeline": 4, "zero": 1},
        policies={"schedule": "dualpipe"},
    )
    played = play(scenario)
    for number in range(len(played.record.classes)):
        assert len(played.rows(number, "two ways")) == scenario.run.steps
    rows = played.plan.wiring.members["mirror"]
    stages = played.plan.program_of[rows]
    assert (stages.sum(axis=1) == 3).all()
    assert sorted(rows.ravel()) == list(range(8))
