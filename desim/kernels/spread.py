"""Devices of one kind that differ: a synchronous job runs at the pace of its slowest one."""

from __future__ import annotations

from statistics import NormalDist
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from desim.spec.hardware import Device

#: Blom's constant for the expected extreme of normal samples (Blom 1958, Statistical Estimates and
#: Transformed Beta-Variables): the largest of n lies on average at quantile (n - a)/(n + 1 - 2a).
_BLOM = 0.375


def expected_largest(count: int) -> float:
    """Return the mean of the largest of `count` samples, in standard deviations above the mean."""
    return NormalDist().inv_cdf((count - _BLOM) / (count + 1 - 2 * _BLOM))


def slowest_of(device: Device, count: int) -> Device:
    """Return the slowest of `count` devices of one kind: its clock under load, hence its peak.

    The clock that a power cap leaves differs from chip to chip (Sinha et al. 2022, "Not All GPUs
    Are Created Equal", arXiv:2208.11035); `kernels.clock_spread` is the standard deviation of the
    time that a compute-bound kernel takes.
    """
    slower = 1 + device.kernels.clock_spread * expected_largest(count)
    if slower == 1:
        return device
    peaks = {dtype: peak / slower for dtype, peak in device.peak_flops_per_s.items()}
    return device.model_copy(update={"peak_flops_per_s": peaks})
