"""A user's own orders play exactly what a schedule of the same orders plays."""

from __future__ import annotations

from typing import Any

import pytest

from desim.plan.schedules import SCHEDULES, SPLIT
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
