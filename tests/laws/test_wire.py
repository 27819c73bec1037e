"""Laws of protocols: links carry what is sent and no more, so that a wider NIC is never slower."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import desim
from desim.record import PS_PER_S
from desim.spec.scenario import Scenario
from tests.jobs import BASE, Played, job, play, with_system

#: Bytes on the wire for each byte of data: NCCL's LL sends a flag of 4 with 4, LL128 8 with 120.
WIRE = {"ll": 2.0, "ll128": 128 / 120, "simple": 1.0}
WIDE = {**BASE["workload"]["model"], "hidden": 4096, "ffn": 16384, "heads": 32, "kv_heads": 32}
SYSTEMS = ("dgx_a100_80_hdr200", "dgx_h100_ndr400", "dgx_b200_ndr400", "h800_ndr400")


def measured(system: str, scenario: Scenario) -> Scenario:
    """The scenario with the costs that were measured of collectives on its system."""
    loaded = desim.load({**BASE, "cluster": {"system": system, "devices": 8}})
    costs = loaded.cluster.system.node_collectives
    assert costs is not None
    return with_system(scenario, node_collectives=costs)


def carried(played: Played, kind: str) -> float:
    """Bytes over all links of a kind."""
    links = [link for link in played.record.links if link.kind == kind]
    seconds = [np.diff(link.time_ps) / PS_PER_S for link in links]
    return sum(
        link.count * float((link.rate_bytes_per_s[:-1] * s).sum())
        for link, s in zip(links, seconds, strict=True)
    )


def replicas(system: str, protocol: str, **changes: Any) -> Scenario:
    """Data-parallel replicas on two nodes of 8, whose reductions are rings of one protocol."""
    pins = {"all_reduce": "ring", "protocols": {"all_reduce": protocol}}
    return job(
        workload={**BASE["workload"], "global_batch": 16, "model": WIDE},
        cluster={"system": system, "devices": 16},
        parallel__zero=0,
        policies={"bucket": "50 MB", "collectives": pins, **changes},
    )


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("protocol", WIRE)
@pytest.mark.parametrize("calm", [True, False])
def test_links_carry_the_data_and_its_flags(system: str, protocol: str, calm: bool) -> None:
    """A ring all-reduce of S bytes over n ranks moves 2 (n - 1) / n S over each of its n hops.

    Of the 16 hops 14 are on NVLink and 2 on NICs. However slow the protocol is, and whether it runs
    beside kernels, links carry its data and flags, no more; no more than a protocol that was
    measured near the links' capacity leaves room for.
    """
    scenario = replicas(system, protocol, overlap={"grad_reduce": "none" if calm else "bucketed"})
    for played in (play(scenario), play(measured(system, scenario))):
        spans = played.spans()
        size = float(spans.size_bytes[played.rows(name="grad reduce")].sum())
        used = played.plan.wiring.uses[0]
        assert used.protocol.lower() == protocol
        assert used.near_wire_bytes == pytest.approx(WIRE[protocol], rel=0.005)
        assert used.far_wire_bytes == pytest.approx(WIRE[protocol])
        hop = 2 * 15 / 16 * size
        near, far = carried(played, "nvlink_out"), carried(played, "nic_out")
        assert near == pytest.approx(14 * hop * used.near_wire_bytes, rel=1e-6)
        assert far == pytest.approx(2 * hop * WIRE[protocol], rel=1e-6)
        for link in played.record.links:
            assert link.rate_bytes_per_s.max() <= link.capacity_bytes_per_s * (1 + 1e-9)


JOBS: dict[str, dict[str, Any]] = {
    "sharded": {"parallel": {"zero": 3}, "workload__global_batch": 32},
    "replicas": {"parallel": {"zero": 1}, "workload__global_batch": 32},
    "pipeline": {
        "parallel": {"tensor": 4, "pipeline": 2, "zero": 1},
        "policies__overlap": {"pipeline": "async"},
    },
    "tensor across nodes": {"parallel": {"tensor": 16, "zero": 0}, "workload__global_batch": 4},
}


@pytest.mark.parametrize("name", JOBS)
@pytest.mark.parametrize("protocol", ["auto", "ll128"])
@pytest.mark.parametrize("system", SYSTEMS[:2])
def test_a_wider_nic_is_never_slower(name: str, protocol: str, system: str) -> None:
    """Also where a protocol is paced inside the node, and its bytes leave the NICs idle.

    With `beside_compute` a collective may begin beside a kernel that it followed before: then by
    no more than a thousandth.
    """
    base = {"cluster": {"system": system, "devices": 32}, "workload__model": WIDE}
    pins = {} if protocol == "auto" else {"policies__collectives": {"protocols": protocol}}
    for share, worse in ((1.0, 1.0), (0.8, 1.001)):
        scenario = with_system(
            measured(system, job(**{**base, **JOBS[name], **pins})),
            communication={"beside_compute": share},
        )
        steps = [
            play(with_system(scenario, fabric={"nic_bytes_per_s": gbps * 1e9 / 8})).step_ps
            for gbps in (25, 100, 200, 400, 1600)
        ]
        assert all(wide <= worse * narrow for narrow, wide in pairwise(steps)), steps
        assert steps[-1] < steps[0]
