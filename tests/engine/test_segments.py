"""Runs of kernels are played as one event and have the times of kernels played one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from desim.engine.rank import Rank
from desim.spec.scenario import Scenario
from tests.jobs import BASE, LANE, Played, job, kernels_apart, play

WIDE = {**BASE["workload"]["model"], "hidden": 4096, "ffn": 16384, "heads": 32, "kv_heads": 32}
JOBS: dict[str, dict[str, Any]] = {
    "one device": {"cluster__devices": 1, "workload__global_batch": 2},
    "tiny kernels that are launched late": {
        "kernels": {"launch": "50 us", "fusion": "eager"},
        "parallel": {"tensor": 2},
    },
    "kernels about as long as their launch": {
        "kernels": {"launch": "9 us"},
        "workload__global_batch": 16,
        "policies": {"bucket": "2 MB"},
    },
    "speed changes inside runs": {
        "workload__model": WIDE,
        "policies": {"bucket": "30 MB"},
        "disturb": [{"device": 3, "compute": 0.7}],
    },
    "gathers beside compute": {
        "cluster__devices": 16,
        "workload__global_batch": 32,
        "workload__model": WIDE,
        "parallel": {"zero": 3},
        "policies": {"fsdp": {"prefetch": 2, "gathers_in_flight": 3}, "sync": "none"},
        "run__steps": 2,
    },
    "pipeline with messages beside compute": {
        "cluster__devices": 16,
        "workload__global_batch": 16,
        "parallel": {"tensor": 2, "pipeline": 4, "virtual_stages": 2},
        "workload__model": {**BASE["workload"]["model"], "layers": 8},
        "policies": {"schedule": "interleaved", "overlap": {"pipeline": "async"}},
    },
    "captured passes": {"kernels": {"cuda_graphs": True}, "parallel": {"tensor": 4}},
    "jitter": {"parallel": {"tensor": 2, "pipeline": 2}, "disturb": [{"jitter": 0.1}]},
}
COLUMNS = ("name", "issue_ps", "ready_ps", "start_ps", "end_ps", "alone_ps")


def segments(played: Played) -> int:
    return sum(rank.tracks[LANE["compute"]].number for rank in played.player.ranks)


@pytest.mark.parametrize("name", JOBS)
def test_runs_have_the_times_of_single_kernels(name: str) -> None:
    scenario = job(**JOBS[name])
    runs = play(scenario)
    with kernels_apart():
        apart = play(scenario)
    assert segments(apart) > 1.2 * segments(runs)
    assert apart.step_ps == runs.step_ps
    for number in range(len(runs.record.classes)):
        for column in COLUMNS:
            one, other = getattr(runs.spans(number), column), getattr(apart.spans(number), column)
            assert (one == other).all(), column


@pytest.mark.parametrize("name", JOBS)
def test_a_kernel_starts_once_issued_and_after_the_one_before(name: str) -> None:
    """And not later, unless it waits for another lane."""
    played = play(job(**JOBS[name]))
    for number in range(len(played.record.classes)):
        spans, causes = played.spans(number), played.record.causes_of(number)
        for row in played.rows(number, lane="compute")[1:]:
            waited = causes.waited[causes.first[row] : causes.first[row + 1]]
            ended = [spans.end_ps[i] for i in (causes.before[row], *waited) if i >= 0]
            assert spans.start_ps[row] == max(spans.issue_ps[row], *ended)


def shares_held(rank: Rank) -> tuple[np.ndarray, np.ndarray]:
    """Times at which SMs or memory bandwidth are taken or given back, and by how much.

    A collective holds its SMs from its arrival and memory bandwidth from its start, to its end.
    """
    rows = []
    for lane in range(1, len(LANE)):
        log = np.array(rank.logs[lane], dtype=np.int64).reshape(-1, 3)
        comms = rank.score.program.comm[rank.tracks[lane].tasks]
        for (ready, start, end), comm in zip(log.tolist(), comms.tolist(), strict=True):
            port = rank.ports[comm]
            assert port is not None
            sms, memory = port[1].sms, port[1].memory_permille
            rows += [(ready, sms, 0), (start, 0, memory), (end, -sms, -memory)]
    table = np.array(sorted(rows), dtype=np.int64).reshape(-1, 3)
    return table[:, 0], np.cumsum(table[:, 1:], axis=0)


@pytest.mark.parametrize(
    "name",
    [
        "speed changes inside runs",
        "gathers beside compute",
        "pipeline with messages beside compute",
    ],
)
def test_kernels_run_at_the_speed_that_is_left(name: str) -> None:
    """Progress of every kernel, added up over the shares that others held meanwhile, is one.

    Each change of speed rounds up to a picosecond.
    """
    scenario: Scenario = job(**JOBS[name])
    played = play(scenario)
    changed = 0
    for number, rank in enumerate(played.player.ranks):
        times, held = shares_held(rank)
        timing = rank.device.timing
        spans = played.spans(number)
        first = len(rank.tracks[LANE["compute"]].tasks) - len(played.rows(number, lane="compute"))
        for kernel, row in enumerate(played.rows(number, lane="compute"), first):
            start, end = int(spans.start_ps[row]), int(spans.end_ps[row])
            cuts = np.unique(np.clip([start, *times.tolist(), end], start, end))
            progress = 0.0
            for low, high in zip(cuts[:-1], cuts[1:], strict=True):
                at = int(np.searchsorted(times, low, side="right")) - 1
                load = (int(held[at, 0]), int(held[at, 1])) if at >= 0 else (0, 0)
                whole = timing.durations(timing.number(load))[kernel]
                progress += float(high - low) / float(whole)
            changed += len(cuts) > 2
            assert abs(progress - 1) * (end - start) <= len(cuts)
    assert changed >= 10
