"""Quantities: bit and byte told apart, units needed, and written so that they read back."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from desim import units


@pytest.mark.parametrize(
    ("text", "dimension", "expected"),
    [
        ("400 Gbps", "bytes_per_s", 50e9),
        ("400 Gb/s", "bytes_per_s", 50e9),
        ("400 GB/s", "bytes_per_s", 400e9),
        ("3.35 TB/s", "bytes_per_s", 3.35e12),
        ("80 GiB", "bytes", 80 * 2**30),
        ("80 GB", "bytes", 80e9),
        ("8 Gbit", "bytes", 1e9),
        ("5 us", "s", 5e-6),
        ("5us", "s", 5e-6),
        ("1e3 ns", "s", 1e-6),
        ("700 W", "w", 700.0),
        ("1.2 kW", "w", 1200.0),
        ("989.4 TFLOPS", "flops_per_s", 989.4e12),
        ("1_000 MB", "bytes", 1e9),
        (0, "bytes_per_s", 0.0),
    ],
)
def test_a_quantity_is_read_in_si(text: object, dimension: str, expected: float) -> None:
    assert units.parse(text, dimension) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize(
    ("value", "dimension", "words"),
    [
        (400, "bytes_per_s", "needs a unit"),
        (True, "bytes", "quantity with a unit"),
        ("400", "bytes_per_s", "a number and a unit"),
        ("400 GB", "bytes_per_s", "is a unit of an amount of memory; a bandwidth is needed"),
        ("80 GB/s", "bytes", "is a unit of a bandwidth"),
        ("80 gigs", "bytes", "not a unit that desim knows"),
        ("80 gb", "bytes", "not a unit that desim knows"),
        ("nan GB", "bytes", "a number and a unit"),
        ("1e999 GB", "bytes", "finite"),
        ("9" * 100 + " GB", "bytes", "a number and a unit"),
        (None, "s", "quantity with a unit"),
    ],
)
def test_a_wrong_quantity_says_what_is_needed(value: object, dimension: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        units.parse(value, dimension)


@given(
    st.floats(min_value=0, max_value=1e18, allow_nan=False),
    st.sampled_from(sorted(units.DIMENSIONS)),
)
def test_what_is_written_reads_back_to_the_same_number(value: float, dimension: str) -> None:
    assert units.parse(units.write(value, dimension), dimension) == value


@pytest.mark.parametrize(
    ("value", "dimension", "text"),
    [
        (160e6, "bytes", "160 MB"),
        (80 * 2.0**30, "bytes", "80 GiB"),
        (50e9, "bytes_per_s", "50 GB/s"),
        (5e-6, "s", "5 us"),
        (700.0, "w", "700 W"),
        (0.0, "s", "0 s"),
        (7.900000000000001e-07, "s", "0.79 us"),
    ],
)
def test_a_quantity_is_written_shortly(value: float, dimension: str, text: str) -> None:
    assert units.write(value, dimension) == text


def test_show_rounds_for_people() -> None:
    assert units.show(3.35e12, "bytes_per_s") == "3.35 TB/s"
    assert units.show(math.pi, "s", digits=3) == "3.14 s"
    assert units.show(2.0**31, "bytes") == "2 GiB"
