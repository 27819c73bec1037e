"""Kernels that stream memory: norms, activations, softmax, look-ups, the optimizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from desim.kernels.roofline import memory_s
from desim.kernels.time import KernelTime

if TYPE_CHECKING:
    from desim.models.op import Op
    from desim.spec.hardware import Device


def memory_bound_time(op: Op, device: Device) -> KernelTime:
    """Return the time in which the op's bytes cross device memory.

    Its arithmetic runs in fp32 outside the tensor cores; where the device states that peak it is a
    bound too, though never the nearer one for the kernels of these models.
    """
    peak = device.peak_flops_per_s.get("fp32")
    compute = op.flops / peak if peak else 0.0
    memory = memory_s(device, op.read_bytes, op.write_bytes)
    return KernelTime(compute, memory, device.kernels.floor_s)
