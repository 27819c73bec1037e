"""Grouped GEMM: between what hides everything and nothing, and near what was measured."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from desim.kernels.gemm import gemm_time
from desim.kernels.grouped_gemm import grouped_gemm_time
from desim.models.op import Op
from desim.spec.hardware import Device
from tests.jobs import job

FILE = Path(__file__).parents[2] / "validation" / "op_efficiency.csv"
SYSTEMS = {"B200-SXM": "dgx_b200_ndr400", "A100-80GB-PCIe": "a100_pcie_80"}
_GROUP_LAUNCH_S = 9e-6


def device_of(name: str) -> Device:
    return job(cluster__system=SYSTEMS[name]).cluster.system.device


def measured(name: str) -> list[tuple[Op, float]]:
    """Ops of one device with their seconds."""
    found = []
    with FILE.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["hw"] != name or row["op"] != "group_matmul" or not row["layout"]:
                continue
            groups, m, n, k = (int(part.split("=")[1]) for part in row["shape"].split(";"))
            gradient = 4 if "main_grad=fp32" in row["extra"] else 2
            shape, variant, written = {
                "fwd": ((m, n, k), "forward", 2),
                "bwd_grad_act": ((m, k, n), "dgrad", 2),
                "bwd_grad_w": ((n, k, m), "wgrad", gradient),
            }[row["layout"]]
            a, b, c = shape
            write = float(groups * a * b * written)
            read = 2.0 * groups * (a * c + c * b) + (write if variant == "wgrad" else 0.0)
            flops = 2.0 * a * b * c * groups
            op = Op("x", "grouped_gemm", "bf16", flops, read, write, (a, b, c, groups), variant)
            found.append((op, float(row["time_us"]) * 1e-6))
    return found


@pytest.mark.parametrize("name", SYSTEMS)
def test_near_what_was_measured(name: str) -> None:
    """The host launches group by group and bounds the smallest."""
    device = device_of(name)
    errors = [
        max(grouped_gemm_time(op, device).alone_s, op.groups * _GROUP_LAUNCH_S) / seconds - 1
        for op, seconds in measured(name)
    ]
    assert len(errors) in (12, 108)
    assert np.median(np.abs(errors)) < 0.08
    assert abs(np.median(errors)) < 0.05


def test_no_faster_than_a_batch_and_no_slower_than_both_parts() -> None:
    device = device_of("B200-SXM")
    for op, _ in measured("B200-SXM"):
        batch = gemm_time(replace(op, kind="gemm"), device)
        alone = grouped_gemm_time(op, device).alone_s
        assert batch.alone_s <= alone <= batch.compute_s + batch.memory_s + batch.floor_s
