"""The short way to a step time leads to the same number as a whole run."""

from __future__ import annotations

import pytest

import desim
from desim.api import predict, predict_memory
from tests.jobs import job


@pytest.mark.parametrize(
    "changes",
    [
        {"parallel": {"tensor": 2, "pipeline": 2}},
        {"parallel": {"zero": 3}},
        {"parallel": {"pipeline": 4}, "disturb": [{"device": 5, "compute": 0.7}]},
        {"parallel": {"pipeline": 2}, "run": {"fold": False}},
    ],
)
def test_predict_finds_what_run_finds(changes: dict[str, object]) -> None:
    scenario = job(**changes)
    summary, found = desim.run(scenario).summary, predict(scenario)
    assert found.step_time_s == summary["step_time_s"]
    assert found.allocated_bytes == max(summary["peak_memory_bytes"].values())
    assert found.device_bytes >= found.reserved_bytes >= found.allocated_bytes
    planned = predict_memory(scenario)
    assert (planned.step_time_s, planned.allocated_bytes) == (None, found.allocated_bytes)
