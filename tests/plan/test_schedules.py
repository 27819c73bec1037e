"""Schedules: every pass once, in an order that its data allows, and what it holds."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from desim.plan.schedules import FOLDED_BACK, MIRRORED, SCHEDULES, SPLIT
from desim.plan.schedules.breadth_first import breadth_first
from desim.plan.schedules.costs import Costs, play_orders
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


@st.composite
def shapes(draw: st.DrawFn) -> tuple[str, int, int, int]:
    """A schedule with stages, micro-batches and chunks that its rules allow."""
    name = draw(st.sampled_from(sorted(SCHEDULES)))
    stages = draw(st.integers(1, 8))
    chunks = draw(st.integers(1, 4)) if name in ("interleaved", "breadth_first") else 1
    if name == "dualpipe":
        stages += stages % 2
        return name, stages, 2 * (stages + draw(st.integers(0, 6))), 2
    if name == "dualpipe_v":
        return name, stages, 2 * stages + draw(st.integers(0, 6)), 2
    fewest = stages if chunks > 1 else 1
    return name, stages, fewest + draw(st.integers(0, 20)), chunks


def parts(order: list[Pass], *, split: bool) -> Counter[tuple[str, int, int]]:
    """What an order does: forward, the gradient of the input and those of weights."""
    done: Counter[tuple[str, int, int]] = Counter()
    for kind, micro_batch, chunk in order:
        both = ("input", "weight") if kind != "backward" or not split else ("input",)
        for what in {"forward": ("forward",), "weight": ("weight",)}.get(kind, both):
            done[what, micro_batch, chunk] += 1
    return done


@given(shapes())
def test_every_pass_once_and_forward_first(shape: tuple[str, int, int, int]) -> None:
    name, stages, micro_batches, chunks = shape
    for stage in range(stages):
        order = SCHEDULES[name](stage, stages, micro_batches, chunks)
        half = micro_batches // 2
        ways = {(i, c) for i in range(micro_batches) for c in range(chunks)}
        if name == "dualpipe":
            ways = {(i, i // half) for i in range(micro_batches)}
        done = parts(order, split=name in SPLIT)
        assert set(done.values()) == {1}
        assert set(done) == {
            (what, *way) for what in ("forward", "input", "weight") for way in ways
        }
        place = {(item.kind, *item[1:]): at for at, item in enumerate(order)}
        for kind, *way in place:
            if kind == "weight":
                assert place[kind, *way] > place["backward", *way]
            elif kind != "forward":
                assert place[kind, *way] > place["forward", *way]


@given(shapes())
def test_stages_can_play_their_orders_together(shape: tuple[str, int, int, int]) -> None:
    """Played as their inputs come, all orders end: no circle of waiting, and none is too short."""
    name, stages, micro_batches, chunks = shape
    orders = [SCHEDULES[name](stage, stages, micro_batches, chunks) for stage in range(stages)]
    table = ((1.0,) * chunks,) * stages
    costs = Costs(table, table, table, table, 0.5, name in FOLDED_BACK, name in MIRRORED)
    played = play_orders(orders, costs)
    passes = sum(1 + (item.kind in ("whole", "joined")) for item in orders[0])
    assert played.longest_s >= passes


def test_all_forward_then_all_backward() -> None:
    assert text(gpipe(1, 2, 3, 1)) == "F0.0 F1.0 F2.0 B0.0 B1.0 B2.0"


def test_one_forward_one_backward() -> None:
    assert text(one_f_one_b(0, 2, 3, 1)) == "F0.0 F1.0 B0.0 F2.0 B1.0 B2.0"
    assert text(one_f_one_b(1, 2, 3, 1)) == "F0.0 B0.0 F1.0 B1.0 F2.0 B2.0"


def test_interleaved_rounds() -> None:
    """Two stages of two chunks: the first warms up with 2 (p - 1) + (v - 1) p = 4 passes."""
    assert text(interleaved(0, 2, 2, 2)) == "F0.0 F1.0 F0.1 F1.1 B0.1 B1.1 B0.0 B1.0"
    assert text(interleaved(1, 2, 2, 2)) == "F0.0 F1.0 F0.1 B0.1 F1.1 B1.1 B0.0 B1.0"


def test_breadth_first_chunks() -> None:
    """Lamy-Poirier 2023 (arXiv:2211.05953), figure 4: chunk after chunk, then back."""
    assert text(breadth_first(0, 2, 2, 2)) == "F0.0 F1.0 F0.1 F1.1 B0.1 B1.1 B0.0 B1.0"


def test_rounds_of_any_size() -> None:
    """Seven micro-batches on two stages: three rounds of 3, 2 and 2; the first is warmed up."""
    order = [item for item in interleaved(1, 2, 7, 2) if item.kind == "forward"]
    assert text(order) == ("F0.0 F1.0 F2.0 F0.1 F1.1 F2.1 F3.0 F4.0 F3.1 F4.1 F5.0 F6.0 F5.1 F6.1")
    assert text(interleaved(1, 2, 7, 2)).startswith("F0.0 F1.0 F2.0 F0.1 B0.1 F1.1 B1.1")


@pytest.mark.parametrize("stages", [1, 2, 4, 8])
@pytest.mark.parametrize("micro_batches", [1, 3, 8, 20])
def test_micro_batches_held(stages: int, micro_batches: int) -> None:
    """GPipe holds all m, 1F1B min(p - s, m) on stage s (Narayanan et al. 2021, section 2.2)."""
    for stage in range(stages):
        assert held(gpipe(stage, stages, micro_batches, 1)) == micro_batches
        most = min(stages - stage, micro_batches)
        assert held(one_f_one_b(stage, stages, micro_batches, 1)) == most
