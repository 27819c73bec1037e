"""summary.json: its keys are a contract with other tools."""

from __future__ import annotations

from collections.abc import Iterator
from math import fsum
from pathlib import Path
from typing import Any

import pytest

from desim.analyze.accounting import CATEGORIES
from tests.cli.conftest import ROOT, Cli

FEW = ("--no-trace", "--no-report", "--json")


@pytest.fixture
def tokens(tiny: Path, cli: Cli) -> dict[str, Any]:
    summary = cli(tiny, *FEW).json
    assert isinstance(summary, dict)
    return summary


@pytest.fixture
def samples(tiny: Path, cli: Cli) -> dict[str, Any]:
    summary = cli(ROOT / "scenarios" / "dlrm_a_128.yaml", *FEW).json
    assert isinstance(summary, dict)
    return summary


def test_shares(tokens: dict[str, Any], samples: dict[str, Any]) -> None:
    for summary in (tokens, samples):
        for shares in (summary["time_share"], summary["critical_path_share"]):
            assert tuple(shares) == CATEGORIES
            assert fsum(shares.values()) == pytest.approx(1.0, abs=1e-12)
            assert min(shares.values()) >= 0.0
        for shares in summary["stage_time_share"].values():
            assert fsum(shares.values()) == pytest.approx(1.0, abs=1e-12)


def test_numbers_agree_with_each_other(tokens: dict[str, Any]) -> None:
    step_s = tokens["step_time_s"]
    assert tokens["tokens_per_s"] == pytest.approx(8 * 1024 / step_s)
    assert tokens["tokens_per_s_per_device"] == pytest.approx(tokens["tokens_per_s"] / 8)
    hours = 8 * 1e12 / tokens["tokens_per_s"] / 3600
    assert tokens["device_hours_per_trillion_tokens"] == pytest.approx(hours)
    assert "cost_per_trillion_tokens" not in tokens
    assert tokens["model_tflop_per_s_per_device"] == pytest.approx(tokens["mfu"] * 989.4)
    assert tokens["hfu"] >= tokens["mfu"] > 0
    assert tokens["num_devices"] == 8
    assert list(tokens["peak_memory_bytes"]) == ["0", "1"]
    assert tokens["fits"] is True
    for lane in tokens["communication"].values():
        assert 0 <= lane["exposed_s"] <= lane["total_s"]


def test_a_price_makes_cost_of_hours(tiny: Path, cli: Cli) -> None:
    """Device-hours times the price of one, in the summary and on the terminal."""
    priced = ("--set", "cluster.device_hour_price=2.5")
    summary = cli(tiny, *FEW, *priced).json
    hours = summary["device_hours_per_trillion_tokens"]
    assert summary["cost_per_trillion_tokens"] == pytest.approx(2.5 * hours)
    assert f"cost per trillion tokens{2.5 * hours:>14,.0f}" in cli(tiny, *FEW[:2], *priced).out


def test_only_json_types(tokens: dict[str, Any], samples: dict[str, Any]) -> None:
    for value in (*_leaves(tokens), *_leaves(samples)):
        assert isinstance(value, (int, float, str, bool))
        assert value == value, "NaN cannot stand in JSON"


def _leaves(value: Any) -> Iterator[Any]:
    below = (
        value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    )
    if below is None:
        yield value
    else:
        for item in below:
            yield from _leaves(item)
