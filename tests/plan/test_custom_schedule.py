"""A user's own orders play exactly what a schedule of the same orders plays."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from desim.plan.schedules import SCHEDULES, SPLIT
from desim.plan.schedules.costs import Costs, play_orders
from desim.plan.schedules.custom import custom_orders
from desim.spec.orders import Custom
from desim.spec.rules.orders import circle
from tests.jobs import Played, job, play

WORDS = {"forward": "F", "backward": "B", "weight": "W", "whole": "BW"}


def played(schedule: Any, chunks: int, p2p: str, **policies: Any) -> Played:
    return play(
        job(
            workload__global_batch=16,
            parallel={"pipeline": 4, "virtual_stages": chunks, "zero": 1},
            workload__model__layers=8,
            policies={"schedule": schedule, "overlap": {"pipeline": p2p}, **policies},
        )
    )


@pytest.mark.parametrize(
    ("name", "chunks", "p2p"),
    [
        ("1f1b", 1, "async"),
        ("zb_h1", 1, "blocking"),
        ("zb_h2", 1, "async"),
        ("interleaved", 2, "blocking"),
        ("breadth_first", 2, "async"),
    ],
)
def test_the_same_orders_take_the_same_time(name: str, chunks: int, p2p: str) -> None:
    """To the picosecond, and with the same peak of memory."""
    orders = [
        [f"{WORDS[i.kind]}{i.micro_batch}.{i.chunk}" for i in SCHEDULES[name](s, 4, 8, chunks)]
        for s in range(4)
    ]
    validated = {"post_validation": name in SPLIT}
    named = played(name, chunks, p2p, **validated)
    own = played({"orders": orders}, 1, p2p, **validated)
    assert own.step_ps == named.step_ps
    peaks = [[ledger.peak_bytes for ledger in p.plan.ledgers] for p in (named, own)]
    assert peaks[0] == peaks[1]


def test_weight_gradients_hold_their_inputs_until_they_run() -> None:
    """Weights at the end hold more than weights at once, by what each of them keeps."""
    at_once = ["F0 F1 B0 W0 F2 B1 W1 B2 W2", "F0 B0 W0 F1 B1 W1 F2 B2 W2"]
    at_the_end = ["F0 F1 B0 F2 B1 B2 W0 W1 W2", "F0 B0 F1 B1 F2 B2 W0 W1 W2"]
    held = []
    for orders in (at_once, at_the_end):
        scenario = job(
            workload__global_batch=12,
            parallel={"pipeline": 2, "zero": 0},
            policies={"schedule": {"orders": orders}},
        )
        ledger = play(scenario).plan.ledgers[1]
        row = ledger.owners.index("output gradients")
        held.append(ledger.by_owner[row].max())
    assert held[1] == pytest.approx(3 * held[0])


def test_numbers_of_micro_batches_do_not_matter() -> None:
    """Played in another order of their numbers, the first still gathers and the last reduces."""
    natural, permuted = "F0 F1 F2 B0 B1 B2", "F2 F0 F1 B2 B0 B1"
    results = [
        play(
            job(
                workload__global_batch=12,
                parallel={"pipeline": 2, "zero": 1},
                policies={"schedule": {"orders": [order, order]}},
            )
        )
        for order in (natural, permuted)
    ]
    assert results[0].step_ps == results[1].step_ps
    assert results[0].accounts() == results[1].accounts()


@st.composite
def customs(draw: st.DrawFn) -> Custom:
    """Orders that are complete and in order on each stage, whatever that means for the others."""
    stages, micro_batches = draw(st.integers(2, 3)), draw(st.integers(1, 3))
    chunks, split = draw(st.integers(1, 2)), draw(st.booleans())
    ways = [(i, c) for i in range(micro_batches) for c in range(chunks)]
    orders = []
    for _ in range(stages):
        words = draw(st.permutations([way for way in ways for _ in range(2 + split)]))
        seen: Counter[tuple[int, int]] = Counter()
        order = []
        for way in words:
            order.append(f"{'FBW'[seen[way]]}{way[0]}.{way[1]}")
            seen[way] += 1
        orders.append(order)
    return Custom.model_validate(
        {"orders": orders, "placement": draw(st.sampled_from(["v", "loop"]))}
    )


@settings(deadline=None, max_examples=200)
@given(customs())
def test_a_circle_is_found_where_there_is_one(custom: Custom) -> None:
    """The rule and the player of orders agree on which orders wait for each other for ever."""
    stages = len(custom.orders)
    table = ((1.0,) * custom.chunks,) * stages
    costs = Costs(table, table, table, table, 0.0, custom.placement == "v")
    if any(circle(custom)):
        with pytest.raises(ValueError, match="circle"):
            play_orders(custom_orders(custom), costs)
    else:
        play_orders(custom_orders(custom), costs)


@st.composite
def played_at_random(draw: st.DrawFn) -> Custom:
    """Orders that came about by playing, at each moment, any pass whose input was next to come."""
    stages, micro_batches = draw(st.integers(2, 3)), draw(st.integers(1, 4))
    chunks, split = draw(st.integers(1, 2)), draw(st.booleans())
    placement = draw(st.sampled_from(["v", "loop"]))
    table = ((1.0,) * chunks,) * stages
    costs = Costs(table, table, table, table, 0.0, placement == "v")
    where = {costs.part(s, c): (s, c) for s in range(stages) for c in range(chunks)}
    last = stages * chunks - 1
    orders: list[list[str]] = [[] for _ in range(stages)]
    # Inputs that have come, oldest first, by who sent them to whom; own ones in any order.
    lanes: dict[tuple[object, ...], list[tuple[str, int, int]]] = {}
    for i in range(micro_batches):
        lanes[0, 0, "F", i] = [("F", 0, i)]
    while lanes:
        key = draw(st.sampled_from(sorted(lanes, key=str)))
        word, part, i = lanes[key].pop(0)
        if not lanes[key]:
            del lanes[key]
        stage, chunk = where[part]
        orders[stage].append(f"{word}{i}.{chunk}")
        if word == "W":
            continue
        if word == "B" and split:
            lanes[stage, stage, "W", part, i] = [("W", part, i)]
        turns = word == "F" and part == last
        then = part if turns else part + (1 if word == "F" else -1)
        if then < 0:
            continue
        direction, target = "B" if turns else word, where[then][0]
        own = (then, i) if target == stage else ()
        lanes.setdefault((stage, target, direction, *own), []).append((direction, then, i))
    return Custom.model_validate({"orders": orders, "placement": placement})


@settings(deadline=None, max_examples=30)
@given(played_at_random(), st.sampled_from(["blocking", "async"]))
def test_what_the_rules_let_through_ends(custom: Custom, p2p: str) -> None:
    """Any order in which messages come as they are sent is let through, and ends on the engine."""
    stages = len(custom.orders)
    micro_batches = 1 + max(item.micro_batch for item in custom.passes[0])
    replicas = 1 if stages < 3 else 2
    scenario = job(
        cluster__devices=stages * replicas,
        workload__global_batch=micro_batches * replicas,
        workload__model__layers=stages * custom.chunks,
        parallel={"pipeline": stages, "zero": 0},
        policies={"schedule": custom.model_dump(), "overlap": {"pipeline": p2p}},
    )
    assert play(scenario).step_ps > 0
