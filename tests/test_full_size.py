"""Scenario 1 at full size: folding changes nothing, and size does not cost."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

import desim
from tests.cli.conftest import shell

SCENARIO = Path(__file__).resolve().parents[1] / "scenarios" / "llama70b_2048.yaml"


@pytest.mark.slow
def test_every_rank_played_gives_the_same_step() -> None:
    """All 2,048 ranks, every kernel: equal to the folded run to 1e-9, category by category."""
    folded = desim.run(SCENARIO).summary
    whole = desim.run(desim.load(SCENARIO, ["run.fold=false"])).summary
    assert whole["rank_classes"] == 2048
    assert whole["tasks"] > 20_000_000
    assert whole["step_time_s"] == pytest.approx(folded["step_time_s"], rel=1e-9)
    for category, share in folded["time_share"].items():
        assert whole["time_share"][category] == pytest.approx(share, abs=1e-9), category
    assert whole["peak_memory_bytes"] == folded["peak_memory_bytes"]


def test_the_cost_follows_the_kinds_of_ranks() -> None:
    """Sixteen times the devices and the batch: the same classes, tasks and nearly the same step."""
    bucket = "policies.bucket=160 MB"  # else it grows with the data-parallel ranks
    small = desim.run(desim.load(SCENARIO, [bucket])).summary
    large = desim.run(
        desim.load(SCENARIO, [bucket, "cluster.devices=32768", "workload.global_batch=16384"])
    ).summary
    assert large["tasks"] == small["tasks"]
    assert large["rank_classes"] == small["rank_classes"] == 8
    assert large["step_time_s"] == pytest.approx(small["step_time_s"], rel=0.1)
    assert small["tasks"] >= 60_000


def test_eight_variants_are_compared_within_the_time_of_two_cores(tmp_path: Path) -> None:
    """15 s on two cores, page and trace included: 30 s of their time."""
    vary = ("policies.schedule=1f1b,gpipe,zb_h1,zb_1p", "policies.overlap.tensor=none,megatron")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    said = shell("compare", SCENARIO, *(f"--vary={axis}" for axis in vary), cwd=tmp_path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert said.code == 0
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 30
    page = tmp_path / "traces_out" / "compare_llama70b_2048" / "compare.html"
    assert page.stat().st_size < 12e6
