"""Schedules: every pass once, in an order that its data allows, and what it holds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from desim.plan.schedules import SCHEDULES, SPLIT
from desim.plan.schedules.gpipe import gpipe
from desim.plan.schedules.interleaved import interleaved
from desim.plan.schedules.one_f_one_b import one_f_one_b
from desim.plan.schedules.passes import Pass


def held(order: list[Pass]) -> int:
    """Most passes of any chunk that are forward but not yet backward."""
    most = now = 0
    for item in order:
        now += 1 if item.kind == "forward" else -1
        most = max(most, now)
    return most


def text(order: list[Pass]) -> str:
    return " ".join(f"{item.kind[0].upper()}{item.micro_batch}.{item.chunk}" for item in order)


SHAPES = {
    "name": st.sampled_from(sorted(SCHEDULES)),
    "stages": st.integers(1, 8),
    "rounds": st.integers(1, 4),
    "chunks": st.integers(1, 4),
}


@given(**SHAPES)
def test_every_pass_once_and_forward_first(
    name: str, stages: int, rounds: int, chunks: int
) -> None:
    chunks = chunks if name == "interleaved" else 1
    micro_batches = stages * rounds
    for stage in range(stages):
        order = SCHEDULES[name](stage, stages, micro_batches, chunks)
        kinds = 3 if name in SPLIT else 2
        assert len(order) == len(set(order)) == kinds * micro_batches * chunks
        place = {item: at for at, item in enumerate(order)}
        for item in order:
            assert 0 <= item.micro_batch < micro_batches
            assert 0 <= item.chunk < chunks
            if item.kind == "backward":
                assert place[item] > place[item._replace(kind="forward")]
            if item.kind == "weight":
                assert place[item] > place[item._replace(kind="backward")]


@given(**SHAPES)
def test_stages_can_play_their_orders_together(
    name: str, stages: int, rounds: int, chunks: int
) -> None:
    """Played one after the other as their inputs come, all orders end: no circle of waiting."""
    chunks = chunks if name == "interleaved" else 1
    micro_batches, parts = stages * rounds, stages * chunks
    orders = [SCHEDULES[name](stage, stages, micro_batches, chunks) for stage in range(stages)]
    done: set[tuple[str, int, int]] = set()
    at = [0] * stages
    moved = True
    while moved:
        moved = False
        for stage, order in enumerate(orders):
            while at[stage] < len(order):
                kind, micro_batch, chunk = order[at[stage]]
                if kind == "weight":
                    at[stage] += 1
                    continue
                part = chunk * stages + stage
                needed = (kind, micro_batch, part - 1 if kind == "forward" else part + 1)
                if 0 <= needed[2] < parts and needed not in done:
                    break
                done.add((kind, micro_batch, part))
                at[stage] += 1
                moved = True
    assert at == [len(order) for order in orders]


def test_all_forward_then_all_backward() -> None:
    assert text(gpipe(1, 2, 3, 1)) == "F0.0 F1.0 F2.0 B0.0 B1.0 B2.0"


def test_one_forward_one_backward() -> None:
    assert text(one_f_one_b(0, 2, 3, 1)) == "F0.0 F1.0 B0.0 F2.0 B1.0 B2.0"
    assert text(one_f_one_b(1, 2, 3, 1)) == "F0.0 B0.0 F1.0 B1.0 F2.0 B2.0"


def test_interleaved_rounds() -> None:
    """Two stages of two chunks: the first warms up with 2 (p - 1) + (v - 1) p = 4 passes."""
    assert text(interleaved(0, 2, 2, 2)) == "F0.0 F1.0 F0.1 F1.1 B0.1 B1.1 B0.0 B1.0"
    assert text(interleaved(1, 2, 2, 2)) == "F0.0 F1.0 F0.1 B0.1 F1.1 B1.1 B0.0 B1.0"


@pytest.mark.parametrize("stages", [1, 2, 4, 8])
@pytest.mark.parametrize("micro_batches", [1, 3, 8, 20])
def test_micro_batches_held(stages: int, micro_batches: int) -> None:
    """GPipe holds all m, 1F1B min(p - s, m) on stage s (Narayanan et al. 2021, section 2.2)."""
    for stage in range(stages):
        assert held(gpipe(stage, stages, micro_batches, 1)) == micro_batches
        most = min(stages - stage, micro_batches)
        assert held(one_f_one_b(stage, stages, micro_batches, 1)) == most


def test_interleaving_holds_more() -> None:
    """Chunk activations of stage 0: p v + p - 1 passes, which is 1 + (p - 1) / (p v) as much."""
    assert held(interleaved(0, 4, 8, 2)) == 4 * 2 + 3
