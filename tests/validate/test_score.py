"""Scores are what their names say: closed forms, repeats, order, lines."""

from __future__ import annotations

from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from desim.validate.measurements import Measurement
from desim.validate.score import Scored, medians_of_repeats, spread_of_repeats, summary
from desim.validate.sweeps import correlations, line_summary, micro_batch_lines, spearman

FACTORS = st.floats(0.25, 4.0)
TIMES = st.floats(0.001, 1000.0)
QUICK = settings(max_examples=40, deadline=None)


def scored(factors: list[float], families: str = "a") -> list[Scored]:
    """Rows whose simulation is `factor` times what was measured, families in turn."""
    return [
        Scored(f"row{n}", families[n % len(families)], 2.0, 2.0 * factor)
        for n, factor in enumerate(factors)
    ]


@QUICK
@given(FACTORS, st.integers(1, 30))
def test_one_factor_for_all_is_every_number(factor: float, count: int) -> None:
    found = summary(count + 2, scored([factor] * count, "ab"))
    assert (found["rows"], found["scored"]) == (count + 2, count)
    assert found["bias"] == pytest.approx(factor - 1)
    for key in ("mape", "median", "p90", "family_mape"):
        assert found[key] == pytest.approx(abs(factor - 1)), key


@QUICK
@given(st.lists(FACTORS, min_size=1, max_size=40))
def test_sizes_and_bias(factors: list[float]) -> None:
    found = summary(len(factors), scored(factors))
    sizes = sorted(abs(factor - 1) for factor in factors)
    assert found["mape"] == pytest.approx(sum(sizes) / len(sizes))
    assert found["median"] == pytest.approx(median(sizes))
    assert found["median"] - 1e-12 <= found["p90"] <= sizes[-1] + 1e-12
    assert abs(found["bias"]) <= found["mape"] + 1e-12
    assert found["bias"] == pytest.approx(sum(factors) / len(factors) - 1)
    worst = [abs(entry["error"]) for entry in found["worst"]]
    assert worst == pytest.approx(sizes[::-1][:10])


@QUICK
@given(st.lists(FACTORS, min_size=1, max_size=20), st.integers(2, 5))
def test_a_family_counts_once_however_large(factors: list[float], times: int) -> None:
    one, other = (
        scored([1.5]),
        [Scored(f"b{n}", "b", 1.0, f) for n, f in enumerate(factors * times)],
    )
    found = summary(0, one + other)["family_mape"]
    mean = sum(abs(f - 1) for f in factors) / len(factors)
    assert found == pytest.approx((0.5 + mean) / 2)


def test_nothing_scored_has_no_numbers() -> None:
    found = summary(3, [])
    assert (found["rows"], found["scored"], found["worst"]) == (3, 0, [])
    assert {found[k] for k in ("mape", "median", "p90", "bias", "family_mape")} == {None}


@QUICK
@given(st.lists(TIMES, min_size=1, max_size=9), TIMES)
def test_repeats_are_compared_with_their_median(times: list[float], alone: float) -> None:
    values = [(f"r{n}", "tag", value) for n, value in enumerate(times)]
    found = medians_of_repeats([*values, ("x", "", alone)])
    assert found == {name: median(times) for name, _, _ in values} | {"x": alone}


def test_a_row_may_be_named_as_what_others_repeat() -> None:
    found = medians_of_repeats([("a", "", 1.0), ("b", "a", 2.0), ("c", "a", 6.0), ("d", "", 9.0)])
    assert found == {"a": 2.0, "b": 2.0, "c": 2.0, "d": 9.0}


def test_spread_of_repeats() -> None:
    assert spread_of_repeats([("x", 1.0), ("x", 2.0), ("x", 3.0), ("y", 5.0), ("", 7.0)]) == [1.0]


@QUICK
@given(st.lists(st.integers(1, 10**6), min_size=2, max_size=20, unique=True))
def test_rank_correlation_sees_only_the_order(values: list[int]) -> None:
    assert spearman(values, [v**3 for v in values]) == pytest.approx(1.0)
    assert spearman(values, [-v for v in values]) == pytest.approx(-1.0)


def test_rank_correlation_needs_something_that_varies() -> None:
    assert spearman([1.0, 2.0], [3.0, 3.0]) is None
    assert spearman([1.0], [3.0]) is None
    # Mean ranks of equal values: 1, 2.5, 2.5, 4 against 1 to 4.
    assert spearman([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(0.9486833)


def row(name: str, batch: int, **cells: str) -> Measurement:
    told = {"global_batch": str(batch), "micro_batch": "2", "dp": "4", "model": "m", **cells}
    return Measurement(1, name, "A", "f", told)


@QUICK
@given(st.floats(0.1, 2.0), st.floats(0.0, 3.0), st.floats(0.5, 2.0), st.floats(-0.5, 1.0))
def test_slope_and_intercept_apart(
    slope: float, intercept: float, factor: float, more: float
) -> None:
    """Measured: slope m + intercept. Simulated: factor slope m + intercept + more."""
    counts = {"a": 1, "b": 2, "c": 8}
    rows = {name: row(name, 8 * count) for name, count in counts.items()}
    pairs = [
        Scored(n, "f", slope * m + intercept, factor * slope * m + intercept + more)
        for n, m in counts.items()
    ]
    (line,) = micro_batch_lines(rows, pairs)
    assert line.ids == ("a", "b", "c")
    assert line.slope_error == pytest.approx(factor - 1, abs=1e-9)
    assert line.intercept_error == pytest.approx(more / (slope + intercept), abs=1e-9)


def test_rows_that_differ_in_more_than_the_batch_make_no_line() -> None:
    rows = {"a": row("a", 8, tp="1"), "b": row("b", 16, tp="2"), "c": row("c", 16, tp="2")}
    pairs = [Scored(name, "f", 1.0, 1.0) for name in rows]
    lines = micro_batch_lines(rows, pairs)
    assert lines == []
    assert line_summary(lines)["slope"] == {"mape": None, "bias": None}


def test_sweeps_compare_time_per_sample() -> None:
    """Twice the batch in a little less than twice the time: the order is by time per sample."""
    rows = {"a": row("a", 8), "b": row("b", 16), "c": row("c", 32)}
    measured = {"a": 8.0, "b": 15.0, "c": 28.0}
    pairs = [Scored(n, "f", t, t * (1 + 0.2 * i)) for i, (n, t) in enumerate(measured.items())]
    found = correlations(rows, pairs)["f"]
    assert found["step_time"] == pytest.approx(1.0)
    assert found["within"] == pytest.approx(-1.0)
    assert (found["sweeps"], found["rows_in_sweeps"]) == (1, 3)
