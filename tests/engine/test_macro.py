"""Passes that are copied from one that was played have the times of passes played one by one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from desim.errors import SpecError
from desim.spec.scenario import Scenario
from tests.jobs import BASE, Played, job, passes_one_by_one, play

COLUMNS = ("name", "issue_ps", "ready_ps", "start_ps", "end_ps", "alone_ps")
MODEL = BASE["workload"]["model"]


def assert_same(copied: Played, single: Played) -> None:
    assert copied.step_ps == single.step_ps
    for number in range(len(single.record.classes)):
        for column in COLUMNS:
            one, other = (getattr(p.spans(number), column) for p in (copied, single))
            assert (one == other).all(), column
    assert copied.accounts() == single.accounts()
    for one, other in zip(copied.record.links, single.record.links, strict=True):
        assert one.name == other.name
        assert (one.time_ps == other.time_ps).all()
        assert one.rate_bytes_per_s == pytest.approx(other.rate_bytes_per_s, rel=1e-9)


def both(scenario: Scenario) -> tuple[Played, Played]:
    with passes_one_by_one():
        single = play(scenario)
    return play(scenario), single


JOBS: dict[str, dict[str, Any]] = {
    "blocking pipeline": {"parallel": {"tensor": 8, "pipeline": 4, "sequence": True}},
    "recomputed, without overlap": {
        "parallel": {"tensor": 8, "pipeline": 2},
        "policies": {"recompute": "full", "overlap": {"tensor": "none"}},
    },
    "normal priority": {
        "parallel": {"tensor": 8, "pipeline": 4, "sequence": True},
        "policies": {"resources": {"high_priority": []}},
    },
    "two steps": {"parallel": {"tensor": 8, "pipeline": 2}, "run": {"steps": 2}},
}


@pytest.mark.parametrize("name", JOBS)
def test_copied_passes_have_the_times_of_single_ones(name: str) -> None:
    """Every span, every category and every link's rate is the same, for fewer events."""
    changes = {"workload__global_batch": 128, "workload__sequence_length": 4096, **JOBS[name]}
    copied, single = both(job(cluster__devices=32, **changes))
    assert copied.record.num_events < 0.75 * single.record.num_events
    assert_same(copied, single)


@st.composite
def jobs(draw: st.DrawFn) -> Scenario:
    """A job whose tensor groups fill nodes, so that their links are their own."""
    pipeline = draw(st.sampled_from([1, 2, 4]))
    schedule = draw(st.sampled_from(["1f1b", "interleaved", "zb_h1", "zb_v"]))
    chunks = 2 if schedule in ("interleaved", "zb_v") and pipeline > 1 else 1
    slow = {"device": draw(st.integers(0, 31)), "compute": 0.9}
    try:
        return job(
            cluster__devices=32,
            disturb=draw(st.sampled_from([[], [slow]])),
            workload__model={**MODEL, "layers": pipeline * chunks * draw(st.integers(1, 2))},
            policies__resources__high_priority=draw(st.sampled_from([["tp", "dp", "pp"], ["pp"]])),
            workload__sequence_length=draw(st.sampled_from([512, 4096])),
            workload__global_batch=4 * draw(st.integers(1, 5)),
            parallel={
                "tensor": 8,
                "pipeline": pipeline,
                "virtual_stages": chunks,
                "sequence": draw(st.booleans()),
                "zero": draw(st.sampled_from([0, 1])),
            },
            policies__schedule=schedule if pipeline > 1 else "1f1b",
            policies__sync=draw(st.sampled_from(["none", "step", "grad_norm"])),
            policies__overlap__pipeline=draw(st.sampled_from(["blocking", "async"])),
            policies__overlap__tensor=draw(st.sampled_from(["none", "megatron", "chunked"])),
            policies__recompute=draw(st.sampled_from(["none", "full", "selective"])),
        )
    except SpecError:
        assume(False)
        raise


@settings(max_examples=10, deadline=None)
@given(jobs())
def test_whatever_is_copied_is_the_same(scenario: Scenario) -> None:
    assert_same(*both(scenario))


def test_random_times_are_not_copied() -> None:
    """With jitter every kernel takes its own time."""
    changes = {"parallel": {"tensor": 8, "pipeline": 2}, "disturb": [{"jitter": 0.1}]}
    copied, single = both(job(cluster__devices=32, workload__global_batch=32, **changes))
    assert copied.record.num_events == single.record.num_events
    assert_same(copied, single)
