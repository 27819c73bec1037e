"""The summary without a timeline is that of a run, key by key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import desim
from desim.api import summary_of
from desim.study.scalars import OPEN, scalar_names, scalars
from desim.study.sweep.goal import never_known
from tests.jobs import BASE

SCENARIOS = Path(__file__).resolve().parents[2] / "scenarios"
DLRM = "dlrm_a_128.yaml"
#: What was spent on it, which is less.
SPENT = ("events", "simulate_wall_s")

CHANGES: dict[str, list[str]] = {
    "data parallel": [],
    "tensor and pipeline": ["parallel.tensor=2", "parallel.pipeline=2"],
    "interleaved": ["parallel.pipeline=2", "parallel.virtual_stages=2",
                    "policies.schedule=interleaved"],
    "zero bubble": ["parallel.tensor=2", "parallel.pipeline=4", "policies.schedule=zb_h1"],
    "sharded": ["parallel.zero=3", "parallel.shard=4"],
    "context": ["parallel.context=2", "parallel.tensor=2", "policies.context=ring"],
    "chunked": ["parallel.tensor=4", "policies.overlap.tensor=chunked"],
    "recomputed, nothing overlaps": [
        "parallel.tensor=2", "policies.recompute=full", "policies.overlap.tensor=none",
        "policies.overlap.grad_reduce=none", "policies.overlap.param_gather=none",
    ],
    "a slow device": ["parallel.tensor=2", "parallel.pipeline=2",
                      "disturb=[{device: 3, compute: 0.5}]"],
    "a degraded link": ["parallel.tensor=2", "cluster.devices=16",
                        "disturb=[{link: 'nic_out[1.0]', bandwidth: 0.5}]"],
    "jitter": ["parallel.tensor=2", "disturb=[{jitter: 0.05}]"],
    "every rank": ["parallel.tensor=2", "run.fold=false"],
    "several steps": ["parallel.pipeline=2", "run.steps=3"],
    "too little memory": ["cluster.system.device.memory=100 MiB"],
}  # fmt: skip


def equal(scenario: desim.spec.scenario.Scenario) -> None:
    found, run = summary_of(scenario), desim.run(scenario).summary
    assert list(found) == list(run)
    assert without(found) == without(run)


def without(summary: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in summary.items() if key not in SPENT}


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_of_small_jobs(changes: list[str]) -> None:
    equal(desim.load(BASE, changes))


@pytest.mark.parametrize("name", sorted(path.name for path in SCENARIOS.glob("*.yaml")))
def test_of_the_scenarios_that_come_with_desim(name: str) -> None:
    equal(desim.load(SCENARIOS / name))


def test_the_names_of_scalars_are_those_of_real_runs() -> None:
    """What a study may name before anything is played is what runs have, no more and no less."""
    price = ["cluster.device_hour_price=2.5"]
    runs = [desim.load(BASE, CHANGES[of] + price) for of in ("tensor and pipeline", "jitter")]
    runs += [desim.load(SCENARIOS / DLRM, price), desim.load(BASE, CHANGES["context"])]
    found = {name for run in runs for name in scalars(summary_of(run))}
    names = scalar_names()
    assert not [name for name in found if never_known(name)]
    assert {n for n in names if "." not in n} == {n for n in found if "." not in n}
    assert {n.split(".")[0] for n in names} | {OPEN} == {n.split(".")[0] for n in found}
    assert never_known("step_time") == "did you mean 'step_time_s'?"


def test_it_takes_fewer_events() -> None:
    scenario = desim.load(SCENARIOS / "llama70b_2048.yaml")
    assert summary_of(scenario)["events"] < desim.run(scenario).summary["events"]
