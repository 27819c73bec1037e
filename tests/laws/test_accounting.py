"""Laws of the record: shares that sum, a contiguous critical path, equal runs equal bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import desim
from desim.analyze.accounting import CATEGORIES
from desim.analyze.critical_path import critical_path, path_share
from desim.spec.dump import dump_scenario
from tests.jobs import BASE, LANE, PHASE, job, play

JOBS: dict[str, dict[str, Any]] = {
    "one device": {"cluster__devices": 1, "workload__global_batch": 2},
    "launch bound": {"cluster__devices": 2, "kernels": {"launch": "50 us"}},
    "data parallel": {"parallel": {"zero": 1}, "policies": {"bucket": "20 MB"}},
    "tensor and pipeline": {
        "cluster__devices": 16,
        "parallel": {"tensor": 2, "pipeline": 4, "sequence": False},
        "policies": {"recompute": "selective"},
    },
    "normal priority": {
        "cluster__devices": 16,
        "parallel": {"tensor": 4, "pipeline": 2},
        "policies": {"resources": {"high_priority": []}, "bucket": "5 MB"},
    },
    "interleaved": {
        "cluster__devices": 16,
        "workload__global_batch": 16,
        "parallel": {"context": 2, "pipeline": 2, "virtual_stages": 2, "zero": 0},
        "policies": {"schedule": "interleaved", "overlap": {"pipeline": "async"}},
    },
    "sharded": {
        "cluster__devices": 16,
        "workload__global_batch": 32,
        "parallel": {"zero": 3},
        "policies": {"sync": "step"},
        "run__steps": 2,
    },
    "disturbed": {
        "cluster__devices": 16,
        "parallel": {"tensor": 2, "pipeline": 2},
        "disturb": [
            {"device": 5, "compute": 0.5},
            {"link": "nic_*[1.*]", "bandwidth": 0.2},
            {"jitter": 0.05},
        ],
        "run": {"seed": 3},
    },
}


@pytest.mark.parametrize("name", JOBS)
def test_every_picosecond_is_accounted_for_once(name: str) -> None:
    played = play(job(**JOBS[name]))
    for account, rank_class in zip(played.accounts(), played.record.classes, strict=True):
        begin, finish = rank_class.window_ps
        assert sum(account.values()) == finish - begin
        assert min(account.values()) >= 0


@pytest.mark.parametrize("name", JOBS)
def test_shares_of_the_summary_sum_to_one(name: str) -> None:
    summary = desim.run(job(**JOBS[name])).summary
    for shares in (
        summary["time_share"],
        summary["critical_path_share"],
        *summary["stage_time_share"].values(),
    ):
        assert sum(shares.values()) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("name", JOBS)
def test_spans_follow_each_other_on_their_lane(name: str) -> None:
    """A lane runs one task at a time, none before it is issued, and the step ends with its last."""
    played = play(job(**JOBS[name]))
    for number, rank_class in enumerate(played.record.classes):
        spans = played.spans(number)
        assert (spans.issue_ps <= spans.ready_ps).all()
        assert (spans.ready_ps <= spans.start_ps).all()
        assert (spans.start_ps <= spans.end_ps).all()
        for lane in range(len(LANE)):
            here = spans.lane == lane
            assert (spans.ready_ps[here][1:] >= spans.end_ps[here][:-1]).all()
        kernels = spans.lane == LANE["compute"]
        assert (spans.end_ps - spans.start_ps >= spans.alone_ps)[kernels].all()
        assert spans.end_ps[kernels].max() == rank_class.window_ps[1]


@pytest.mark.parametrize("name", JOBS)
def test_critical_path_is_without_a_gap(name: str) -> None:
    """It ends when the step ends, reaches back to its start, and its shares sum to one."""
    played = play(job(**JOBS[name]))
    path = critical_path(played.record)
    last = max(played.record.classes, key=lambda c: c.window_ps[1])
    assert path.end_ps[-1] == last.window_ps[1]
    assert path.start_ps[0] == last.window_ps[0]
    assert (path.end_ps[:-1] == path.start_ps[1:]).all()
    assert (path.end_ps > path.start_ps).all()
    assert sum(path_share(path).values()) == pytest.approx(1.0, abs=1e-12)


def test_critical_path_of_one_device_is_its_compute() -> None:
    """Nothing but kernels, with a host that is always ahead."""
    played = play(job(**JOBS["one device"]), host=0.0)
    spans = played.spans()
    path = critical_path(played.record)
    assert {CATEGORIES[c] for c in path.category} == {"compute", "optimizer"}
    assert path.name.tolist() == spans.name.tolist()
    assert path.start_ps.tolist() == spans.start_ps.tolist()
    assert path.end_ps.tolist() == spans.end_ps.tolist()
    share = path_share(path)
    updating = spans.phase == PHASE["optimizer"]
    length = spans.end_ps - spans.start_ps
    assert share["optimizer"] == pytest.approx(length[updating].sum() / length.sum(), rel=1e-12)


def test_critical_path_goes_through_the_slow_device() -> None:
    """With one device at a quarter of its speed, what others wait for is its compute."""
    played = play(job(disturb=[{"device": 6, "compute": 0.25}]), host=0.0)
    slow = next(i for i, c in enumerate(played.record.classes) if c.representative == 6)
    path = critical_path(played.record)
    computed = path.category == CATEGORIES.index("compute")
    assert set(path.rank_class[computed].tolist()) == {slow}
    time_ps = (path.end_ps - path.start_ps)[computed].sum()
    assert time_ps == pytest.approx(played.accounts()[slow]["compute"], rel=0.01)


# Equal scenario and seed, equal bytes

_RUN = """
import sys, desim, json
result = desim.run(sys.argv[1])
result.write(sys.argv[2], report=False)
"""


def test_equal_runs_write_equal_bytes(tmp_path: Path) -> None:
    """In two processes that hash strings differently, but for the wall time of the simulation."""
    scenario = tmp_path / "job.yaml"
    scenario.write_text(dump_scenario(job(**JOBS["disturbed"])), encoding="utf-8")
    running = []
    for seed in ("1", "2"):
        folder = tmp_path / seed
        command = [sys.executable, "-c", _RUN, str(scenario), str(folder)]
        running.append(subprocess.Popen(command, env={**os.environ, "PYTHONHASHSEED": seed}))
    assert [process.wait() for process in running] == [0, 0]
    written = sorted(file.name for file in (tmp_path / "1").iterdir())
    assert {"summary.json", "trace.json.gz", "record.parquet"} <= set(written)
    for name in written:
        first, second = (tmp_path / seed / name for seed in ("1", "2"))
        if name == "summary.json":
            summaries = [json.loads(file.read_text(encoding="utf-8")) for file in (first, second)]
            for summary in summaries:
                summary.pop("simulate_wall_s")
            assert json.dumps(summaries[0]) == json.dumps(summaries[1])
        else:
            assert first.read_bytes() == second.read_bytes(), name


def test_another_seed_is_another_run() -> None:
    jitter = {"cluster__devices": 2, "disturb": [{"jitter": 0.05}]}
    steps = [play(job(**jitter, run__seed=seed)).step_ps for seed in (0, 0, 1)]
    assert steps[0] == steps[1] != steps[2]
    assert BASE["cluster"]["devices"] == 8
