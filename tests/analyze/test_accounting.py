"""Every picosecond of a rank's window is in exactly one category."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from desim.analyze.accounting import (
    CATEGORIES,
    account,
    compute_by_kind,
    lane_busy,
    mean_share,
    merge,
)
from desim.analyze.breakdown import breakdown
from desim.record import LANES, PHASES, Spans
from tests.records import GROUPS, KINDS, make_record, make_spans

_WORLD = GROUPS.index("world")


def _row(lane: str, ready: int, start: int, end: int, **more: Any) -> tuple[Any, ...]:
    phase = PHASES.index(more.get("phase", "forward"))
    issue, alone = more.get("issue", -5), more.get("alone", end - start)
    group = more.get("group", -1 if lane == "compute" else 0)
    return (LANES.index(lane), 0, 0, phase, 0, 0, group, 0.0, issue, ready, start, end, alone)


def _nonzero(categories: dict[str, int]) -> dict[str, int]:
    return {name: time_ps for name, time_ps in categories.items() if time_ps}


def test_an_example_by_hand() -> None:
    """One of each kind of idleness, in order; the sum is the window."""
    spans = make_spans(
        [
            _row("compute", 0, 0, 100, alone=90),
            _row("tp", 80, 80, 130),
            _row("compute", 130, 130, 200, issue=5),
            _row("dp", 200, 220, 230),
            _row("pp_recv_forward", 230, 300, 310),
            _row("compute", 350, 350, 400, issue=350),
            _row("h2d", 410, 410, 430),
            _row("compute", 430, 430, 480, phase="optimizer"),
        ]
    )
    assert _nonzero(account(spans, (0, 500))) == {
        "compute": 90 + 70 + 50,
        "contention": 10,
        "exposed_tp": 30,
        "waiting": 20,
        "exposed_dp": 10,
        "bubble": 70 + 20,
        "exposed_pp": 10,
        "launch": 40,
        "other": 10,
        "exposed_host": 20,
        "optimizer": 50,
    }


def test_waiting_for_another_stage_is_a_bubble() -> None:
    """A collective over all stages waits for the schedule, one within a stage for a straggler."""
    spans = make_spans([_row("compute", 0, 0, 10), _row("dp", 10, 60, 70, group=_WORLD)])
    assert account(spans, (0, 70))["waiting"] == 50
    assert _nonzero(account(spans, (0, 70), [_WORLD])) == {
        "compute": 10,
        "bubble": 50,
        "exposed_dp": 10,
    }


def test_a_lane_earlier_in_the_order_takes_shared_time() -> None:
    """Two transfers at once: the time belongs to the first lane of LANES."""
    spans = make_spans([_row("dp", 0, 0, 50), _row("tp", 20, 20, 80), _row("ep", 60, 60, 90)])
    assert _nonzero(account(spans, (0, 90))) == {
        "exposed_tp": 60,
        "exposed_ep": 10,
        "exposed_dp": 20,
    }


def test_spans_are_cut_at_the_window() -> None:
    """Only the part inside counts; a cut kernel keeps its share of stretch."""
    spans = make_spans([_row("compute", 0, 0, 100, alone=80), _row("tp", 100, 100, 300)])
    assert _nonzero(account(spans, (50, 250))) == {
        "compute": 40,
        "contention": 10,
        "exposed_tp": 150,
    }


def test_an_empty_program_does_nothing() -> None:
    """No spans at all: the window is `other`."""
    assert _nonzero(account(make_spans([]), (10, 30))) == {"other": 20}


@st.composite
def _programs(draw: st.DrawFn) -> Spans:
    """In-order lanes of random tasks with ready <= start <= end and alone <= end - start."""
    rows = []
    for lane in LANES:
        free = draw(st.integers(0, 50))
        for _ in range(draw(st.integers(0, 6))):
            ready = free + draw(st.integers(0, 40))
            start = ready + (0 if lane == "compute" else draw(st.integers(0, 30)))
            free = start + draw(st.integers(0, 60))
            alone = draw(st.integers(0, free - start))
            issue = draw(st.integers(0, ready))
            phase = draw(st.sampled_from(PHASES))
            rows.append(_row(lane, ready, start, free, issue=issue, alone=alone, phase=phase))
    return make_spans(rows)


@given(_programs(), st.integers(0, 300), st.integers(1, 400))
def test_categories_sum_to_the_window(spans: Spans, begin: int, length: int) -> None:
    """No rest and no overlap, whatever the program and wherever the window lies."""
    window = (begin, begin + length)
    categories = account(spans, window)
    assert tuple(categories) == CATEGORIES
    assert sum(categories.values()) == length
    assert min(categories.values()) >= 0
    kernels = compute_by_kind(spans, window, KINDS)
    assert sum(kernels.values()) == categories["compute"] + categories["optimizer"]


@given(_programs(), st.integers(2, 299))
def test_computing_and_exposure_do_not_depend_on_where_a_window_is_cut(
    spans: Spans, cut: int
) -> None:
    """What is decided instant by instant adds up over two neighbouring windows."""
    whole, left, right = (account(spans, window) for window in ((0, 300), (0, cut), (cut, 300)))
    for category in CATEGORIES:
        if category.startswith("exposed_") or category == "waiting":
            assert whole[category] == left[category] + right[category]


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99))))
def test_merge_is_the_union(intervals: list[tuple[int, int]]) -> None:
    """Merged intervals cover the same instants, are sorted, and do not touch."""
    starts, ends = (np.array([i[k] for i in intervals], np.int64) for k in (0, 1))
    merged = merge(starts, ends)
    covered = {t for start, end in intervals for t in range(start, end)}
    pairs = zip(*merged, strict=True)
    assert {t for start, end in pairs for t in range(start, end)} == covered
    assert np.all(merged[0][1:] > merged[1][:-1])


def test_shares_of_all_ranks_sum_to_one() -> None:
    """The mean counts each class with its number of ranks."""
    shares = mean_share([(3, {"compute": 10}), (1, {"compute": 2, "bubble": 8})])
    assert shares["compute"] == pytest.approx(0.8)
    assert sum(shares.values()) == pytest.approx(1)


def test_breakdown_of_a_pipeline() -> None:
    """Per-stage shares sum to 1; exposed time is no more than the total of its lanes."""
    record = make_record()
    measured = breakdown(record)
    for share in (measured.time_share, *measured.stage_time_share.values()):
        assert sum(share.values()) == pytest.approx(1)
    # Stage 1 waits as long, but still sends its last gradient meanwhile.
    assert measured.stage_time_share["0"]["waiting"] == 15_000_000 / record.step_time_ps
    assert set(measured.communication) == {"tp", "dp", "pp"}
    for times in measured.communication.values():
        assert 0 < times["exposed_s"] <= times["total_s"]
    spans = record.spans_of(0)
    busy = lane_busy(spans, record.classes[0].window_ps)
    assert busy["compute"] == int((spans.end_ps - spans.start_ps)[spans.lane == 0].sum())
