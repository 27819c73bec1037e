"""Grouped GEMM: the matrices of several experts, one GEMM each, on several streams.

The thread blocks of the groups run beside each other and share waves: on the device a grouped GEMM
is a batch. What the launches of many small groups cost is the host's (`software`).
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
    """Return the time of a grouped GEMM alone."""
    return gemm_time(replace(op, kind="gemm"), device)
