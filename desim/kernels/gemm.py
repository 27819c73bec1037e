"""GEMM: tiles on streaming multiprocessors, alignment, and the roofline.

An output is cut into tiles, one per SM at a time: what is left of the last tile and of the last
wave is lost (NVIDIA, Matrix Multiplication Background User's Guide, "tile quantization" and "wave
quantization"). As cuBLAS does, several tile shapes and cuts of k are tried, the fastest is taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from desim.kernels.roofline import gemm_efficiency, gemm_shape, memory_s, peak_flops_per_s
from desim.kernels.time import KernelTime
from desim.spec.hardware import GemmShape

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from desim.models.op import Op
    from desim.spec.hardware import Device

#: Output tiles of the cuBLAS and CUTLASS kernels (the guide's list, down to 64 x 64).
_TILES = ((256, 128), (128, 256), (256, 64), (64, 256), (128, 128), (128, 64), (64, 128), (64, 64))

#: Smallest part of k in a split-k kernel; below it the reduction costs more than it brings.
_SPLIT_K_MIN = 512
_SPLITS = (1, 2, 4, 8, 16, 32)
_PARTIAL_BYTES = 4.0  # split-k parts are summed in fp32

#: Bytes to which contiguous dimensions are aligned -> share of the rate (fp16/bf16 elements).
#: 16 B is what tensor-core loads need, 128 B what A100 and later want (the guide, "Tensor Core
#: requirements"); the steps between follow the throughput by power of two in Anthony et al. 2024
#: (arXiv:2401.14489: up to 39 % between well and badly chosen shapes).
_ALIGNMENT = ((128, 1.0), (64, 0.97), (32, 0.94), (16, 0.9), (8, 0.7), (4, 0.6), (0, 0.5))

#: Batched products whose matrices are not aligned to 16 bytes leave the Tensor Cores (cuBLAS needs
#: the alignment of every matrix of a strided batch for them) and run at the fp32 rate. BLOOM's
#: sweep shows it: with a head dimension of 108 a step takes 40 s longer than with 144
#: (validation/step_time.csv, bigscience, h 13824).
_TENSOR_CORE_ALIGNMENT = 16


@dataclass(frozen=True, slots=True)
class GemmUnit:
    """What the time of a GEMM depends on besides its sizes.

    `flops_per_s` is the rate of a large aligned GEMM of endless k, `tile` its output tile,
    `memory_bytes_per_s` what streaming kernels reach.
    """

    sms: int
    flops_per_s: float
    memory_bytes_per_s: float
    tile: tuple[int, int]
    shape: GemmShape


def gemm_unit(op: Op, device: Device) -> GemmUnit:
    """Return the unit that runs `op`, at the clock of training and the op's alignment."""
    rate = peak_flops_per_s(device, op.dtype) * gemm_efficiency(device, op.dtype)
    rate *= alignment_factor(op)
    if len(op.shape) > 3 and op.shape[3] > 1 and aligned_bytes(op) < _TENSOR_CORE_ALIGNMENT:
        cuda_cores = device.peak_flops_per_s.get("fp32", rate) * gemm_efficiency(device, "fp32")
        rate = min(rate, cuda_cores)
    if accumulates(op):
        rate *= device.kernels.gemm_accumulate
    memory = device.memory_bytes_per_s * device.kernels.memory_efficiency
    shape = gemm_shape(device, op.dtype)
    return GemmUnit(device.sms, rate, memory, device.kernels.gemm_tile, shape)


def gemm_time(op: Op, device: Device) -> KernelTime:
    """Return the time of a GEMM alone; its work is that of its shape, whatever counts as FLOPs.

    Siblings fill each other's waves: each takes its share of the time of all as one batch.
    """
    m, n, k = op.shape[:3]
    batch = op.siblings * (op.shape[3] if len(op.shape) > 3 else 1)
    sizes = np.array([[m], [n], [k], [batch]], dtype=float)
    crossing = np.array([[op.siblings * (op.read_bytes + op.write_bytes)]])
    compute, extra = (
        float(part[0]) / op.siblings for part in best_kernel(sizes, crossing, gemm_unit(op, device))
    )
    memory = memory_s(device, op.read_bytes + extra, op.write_bytes)
    return KernelTime(compute, memory, device.kernels.floor_s)


def best_kernel(
    sizes: NDArray[np.float64], crossing_bytes: NDArray[np.float64], unit: GemmUnit
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the math time and the added bytes of the fastest kernel of each GEMM.

    `sizes` holds m, n, k and batch in its rows, one GEMM a column; `crossing_bytes` is a column of
    what each moves at least.
    """
    seconds, extra = _kernels(sizes[:, :, None], unit)
    total = np.maximum(seconds, (crossing_bytes + extra) / unit.memory_bytes_per_s)
    chosen = (np.arange(sizes.shape[1]), np.argmin(total, axis=1))
    return seconds[chosen], extra[chosen]


def alignment_factor(op: Op) -> float:
    """Return what the alignment of the operands' contiguous dimensions leaves of the rate."""
    aligned = aligned_bytes(op)
    return next(share for align, share in _ALIGNMENT if aligned >= align)


def aligned_bytes(op: Op) -> int:
    """Return the power of two, up to 128, to which all contiguous dimensions are aligned, or 0.

    With row-major tensors, `forward` runs along k in both operands, `dgrad` along k and n, `wgrad`
    along m and n; the output always along n.
    """
    m, n, k = op.shape[:3]
    contiguous = (m, n) if op.variant == "wgrad" else (n, k)
    width = {"fp64": 8.0, "fp32": 4.0, "tf32": 4.0, "fp8": 1.0, "fp4": 0.5}.get(op.dtype, 2.0)
    return next(
        align
        for align, _ in _ALIGNMENT
        if not align or all(size * width % align == 0 for size in contiguous)
    )


def accumulates(op: Op) -> bool:
    """Return whether the GEMM adds to an fp32 output."""
    batch = op.shape[3] if len(op.shape) > 3 else 1
    return op.variant == "wgrad" and op.write_bytes >= 4.0 * batch * op.shape[0] * op.shape[1]


def _kernels(sizes: Any, unit: GemmUnit) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return math time and added bytes by GEMM and kernel: a tile and a cut of k.

    A tile costs its k and a prologue; of the idle part of the last wave, `wave_loss` is lost.
    """
    m, n, k, batch = sizes
    tiles = _tiles(unit.tile)
    rows, columns = np.repeat(tiles, len(_SPLITS) + 1, axis=0).T
    count = batch * np.ceil(m / rows) * np.ceil(n / columns)
    most = np.minimum(k // _SPLIT_K_MIN, unit.sms // count)
    split = np.tile(np.array([*_SPLITS, 0.0]), len(tiles))
    split = np.where(split == 0, np.maximum(most, 1), split)
    full = count * split / unit.sms
    waves = np.maximum(full + unit.shape.wave_loss * (np.ceil(full) - full), 1.0)
    share = _tile_share(rows, columns, unit.shape) / _tile_share(*unit.tile, unit.shape)
    per_tile = 2.0 * rows * columns * (np.ceil(k / split) + unit.shape.prologue_k)
    seconds = waves * per_tile * unit.sms / (unit.flops_per_s * share)
    extra = np.where(split > 1, 2 * split * _PARTIAL_BYTES * batch * m * n, 0.0)
    return np.where(split > np.maximum(most, 1), np.inf, seconds), extra


def _tiles(largest: tuple[int, int]) -> NDArray[np.float64]:
    """List the tiles no larger than the device's, that one first."""
    area = largest[0] * largest[1]
    found = {largest: None, largest[::-1]: None}
    found |= {tile: None for tile in _TILES if tile[0] * tile[1] <= area}
    return np.array(list(found), dtype=float)


def _tile_share(rows: Any, columns: Any, shape: GemmShape) -> Any:
    """Return the share of an SM's rate that a tile reaches.

    A tile of a x b does ab multiply-adds on a + b elements per step of k.
    """
    intensity = rows * columns / (rows + columns)
    return intensity / (intensity + shape.half_rate_intensity)
