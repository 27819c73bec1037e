"""Rates of a device: what its math units and its memory sustain, by number format."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from desim.errors import Mistake, SpecError
from desim.spec.hardware import GemmShape

if TYPE_CHECKING:
    from desim.spec.hardware import Device, Dtype

#: format -> formats whose GEMM efficiency stands in where the device does not state its own
_ALIKE: dict[str, tuple[Dtype, ...]] = {
    "bf16": ("fp16",),
    "fp16": ("bf16",),
    "fp8": ("bf16", "fp16"),
    "fp4": ("fp8", "bf16", "fp16"),
    "tf32": ("bf16", "fp16"),
    "fp32": ("tf32", "bf16", "fp16"),
    "fp64": ("fp32", "tf32", "bf16", "fp16"),
}


def peak_flops_per_s(device: Device, dtype: str) -> float:
    """Return the dense peak of `dtype`; raises SpecError where the device cannot compute in it."""
    peaks = device.peak_flops_per_s
    value = peaks.get(cast("Dtype", dtype))
    if value is None:
        mistake = Mistake(
            "workload.precision.compute",
            f"{device.name} has no peak for this format",
            dtype,
            f"it has {', '.join(sorted(peaks))}",
        )
        raise SpecError([mistake])
    return value


def gemm_efficiency(device: Device, dtype: str) -> float:
    """Return the share of the peak that a large aligned GEMM reaches, or that of a like format."""
    shares = device.kernels.gemm_efficiency
    for name in (cast("Dtype", dtype), *_ALIKE[dtype]):
        if name in shares:
            return shares[name]
    return min(shares.values())


def gemm_shape(device: Device, dtype: str) -> GemmShape:
    """Return how GEMMs in `dtype` depend on their sizes.

    A format without constants of its own takes those of a like format at its own rate where that is
    lower: filling the pipeline takes a time, which is fewer steps of k then, and operands need
    fewer FLOPs each to keep up (fp32 on CUDA cores has a fifteenth of the rate of bf16 on H100).
    """
    shapes = device.kernels.gemm_shape
    exact, *alike = (cast("Dtype", dtype), *_ALIKE[dtype])
    if exact in shapes:
        return shapes[exact]
    for name in alike:
        if name in shapes:
            like = shapes[name]
            slower = min(1.0, peak_flops_per_s(device, dtype) / peak_flops_per_s(device, name))
            scaled = {
                "prologue_k": like.prologue_k * slower,
                "half_rate_intensity": like.half_rate_intensity * slower,
            }
            return like.model_copy(update=scaled)
    return GemmShape()


def memory_s(device: Device, read_bytes: float, write_bytes: float) -> float:
    """Return the time in which the device memory moves these bytes."""
    rate = device.memory_bytes_per_s * device.kernels.memory_efficiency
    return (read_bytes + write_bytes) / rate
