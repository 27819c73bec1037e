"""A synchronous job runs at the pace of its slowest device."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from desim.kernels.model import KernelModel
from desim.kernels.spread import expected_largest, slowest_of
from desim.models.op import Op
from desim.spec.hardware import Device
from desim.spec.policy import Kernels
from tests.jobs import job


@pytest.mark.parametrize("count", [2, 8, 64, 1024])
def test_the_expected_largest_is_that_of_normal_samples(count: int) -> None:
    samples = np.random.default_rng(0).standard_normal((4000, count)).max(axis=1)
    assert expected_largest(count) == pytest.approx(samples.mean(), abs=0.04)


def test_one_device_is_its_own_mean() -> None:
    device = _with_spread(0.02)
    assert slowest_of(device, 1).peak_flops_per_s == device.peak_flops_per_s


@given(st.integers(1, 100_000), st.integers(1, 100_000))
def test_more_devices_are_never_faster(a: int, b: int) -> None:
    device = _with_spread(0.02)
    few, many = sorted((a, b))
    slow, fast = slowest_of(device, many), slowest_of(device, few)
    assert all(slow.peak_flops_per_s[d] <= fast.peak_flops_per_s[d] for d in fast.peak_flops_per_s)


def test_devices_that_do_not_differ_change_nothing() -> None:
    device = _with_spread(0.0)
    assert slowest_of(device, 4096) is device


def _with_spread(share: float) -> Device:
    device = job().cluster.system.device
    kernels = device.kernels.model_copy(update={"clock_spread": share})
    return device.model_copy(update={"kernels": kernels})


def test_a_job_that_waits_for_each_kernel_pays_a_gap_per_kernel() -> None:
    op = Op("norm", "norm", "bf16", 0.0, 1e6, 1e6)
    device = job().cluster.system.device
    free, blocked = (
        KernelModel(device, Kernels()),
        KernelModel(device, Kernels(blocking_launch=True)),
    )
    assert blocked.time(op).alone_s - free.time(op).alone_s == pytest.approx(40e-6)
