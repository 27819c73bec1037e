"""Law: a pin decides algorithm and protocol where it holds, and nothing elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from desim.network.protocols import NAMES
from desim.plan.build import build_plan
from desim.plan.tables import FAMILY, SLOTS
from tests.jobs import job

CHANGES: dict[str, Any] = {
    "cluster__devices": 32,
    "workload__global_batch": 16,
    "parallel": {"tensor": 4, "pipeline": 2},
}


def uses(pins: dict[str, Any] | str) -> dict[tuple[str, str, int], tuple[str, str, float]]:
    """(group, collective, bytes) -> (algorithm, protocol, latency) of every collective."""
    plan = build_plan(job(**CHANGES, policies={"bucket": "4 MB", "collectives": pins}))
    return {
        (FAMILY[SLOTS[c.slot]], c.collective, c.size_bytes): (
            use.algorithm,
            use.protocol,
            float(np.max(use.latency_s)),
        )
        for c, use in zip(plan.context.tables.comms, plan.wiring.uses, strict=True)
    }


def notes(pins: dict[str, Any]) -> tuple[str, ...]:
    return build_plan(job(**CHANGES, policies={"collectives": pins})).notes


@pytest.mark.parametrize("protocol", ["ll", "ll128", "simple"])
def test_a_protocol_holds_for_every_collective_that_has_it(protocol: str) -> None:
    """Sends have LL and Simple only, rings and trees all three (NVLS Simple alone)."""
    pinned, free = uses({"protocols": protocol}), uses("auto")
    assert set(pinned) == set(free)
    name = next(name for name in NAMES if name.lower() == protocol)
    for key, (algorithm, chosen, _) in pinned.items():
        sends = algorithm == "send_recv"
        if sends:
            assert (algorithm, chosen) == free[key][:2]
        else:
            assert chosen == name
    assert bool(notes({"protocols": protocol})) == (protocol != "simple")


def test_a_protocol_is_pinned_by_collective() -> None:
    """Others keep what the tuner chose; naming what it chose changes nothing."""
    free, pinned = uses("auto"), uses({"protocols": {"all_gather": "ll"}})
    changed = {key for key in free if free[key] != pinned[key]}
    assert changed
    assert {collective for _, collective, _ in changed} == {"all_gather"}
    assert uses({"protocols": {"all_gather": "auto"}}) == free


def test_a_group_has_pins_of_its_own() -> None:
    """They hold for its communicator alone and come before those of all."""
    free = uses("auto")
    pinned = uses({"groups": {"tp": {"all_gather": "ring", "protocols": {"all_gather": "ll"}}}})
    for key, value in free.items():
        family, collective, _ = key
        if (family, collective) == ("tp", "all_gather"):
            assert pinned[key][:2] == ("ring", "LL")
        else:
            assert pinned[key] == value
    both = uses({"all_gather": "ring", "groups": {"dp": {"all_gather": "hierarchical"}}})
    algorithms = {(f, c): both[f, c, n][0] for f, c, n in both if c == "all_gather"}
    assert algorithms["tp", "all_gather"] == "ring"
    assert algorithms["dp", "all_gather"] == "hierarchical"
    (note,) = notes({"all_gather": "hierarchical"})
    assert "hierarchical does not exist for the groups of tp" in note
