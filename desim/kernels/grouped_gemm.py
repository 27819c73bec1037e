"""Grouped GEMM: the matrices of several experts, one GEMM each, on several streams.

The thread blocks of the groups run beside each other and share waves: on the device a grouped GEMM
is a batch. Its GEMMs are short, a wave or a few: how much of reading and writing one hides under
the math of another is a constant of the device. What the launches of many small groups cost is the
host's (`software`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from desim.kernels.gemm import gemm_time

if TYPE_CHECKING:
    from desim.kernels.time import KernelTime
    from desim.models.op import Op
    from desim.spec.hardware import Device


def grouped_gemm_time(op: Op, device: Device) -> KernelTime:
    """Return the time of a grouped GEMM alone: its longer part, and what shows of the other."""
    time = gemm_time(replace(op, kind="gemm"), device)
    exposed = device.kernels.grouped_exposed * min(time.compute_s, time.memory_s)
    if time.compute_s >= time.memory_s:
        return replace(time, compute_s=time.compute_s + exposed)
    return replace(time, memory_s=time.memory_s + exposed)
