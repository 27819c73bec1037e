"""GEMM: tiles on streaming multiprocessors, alignment, and the roofline.

An output is cut into tiles, one per SM at a time: what is left of the last tile and of the last
wave is lost (NVIDIA, Matrix Multiplication Background User's Guide, "tile quantization" and "wave
quantization"). As cuBLAS does, several tile shapes and cuts of k are tried, the fastest is taken.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

from desim.kernels.roofline import gemm_efficiency, memory_s, peak_flops_per_s
from desim.kernels.time import KernelTime

if TYPE_CHECKING:
    from desim.models.op import Op
    from desim.spec.hardware import Device

#: Output tiles of the cuBLAS and CUTLASS kernels (the guide's list, down to 64 x 64).
_TILES = ((256, 128), (128, 256), (256, 64), (64, 256), (128, 128), (128, 64), (64, 128), (64, 64))

#: FLOPs per operand element at which a tile reaches half of its SM's rate. A tile of a x b does
#: ab multiply-adds on a + b elements per step of k. The guide's tile comparison puts a 64 x 64
#: tile (32) at about two thirds of 256 x 128 (85): 32/(32+c) over 85/(85+c) is 0.69 for c = 32.
_HALF_RATE_INTENSITY = 32.0

#: Steps of k that filling the operand pipeline and storing the tile cost: four stages of 32
#: (CUTLASS default multistage mainloop: 3 to 4 stages of 32 to 64).
_PIPELINE_K = 128

#: k of the large GEMMs for which devices state their efficiency; it contains the pipeline's cost.
_REFERENCE_K = 8192

#: Smallest part of k in a split-k kernel; below it the reduction costs more than it brings.
_SPLIT_K_MIN = 512
_PARTIAL_BYTES = 4.0  # split-k parts are summed in fp32

#: Bytes to which contiguous dimensions are aligned -> share of the rate (fp16/bf16 elements).
#: 16 B is what tensor-core loads need, 128 B what A100 and later want (the guide, "Tensor Core
#: requirements"); the steps between follow the throughput by power of two in Anthony et al. 2024
#: (arXiv:2401.14489: up to 39 % between well and badly chosen shapes).
_ALIGNMENT = ((128, 1.0), (64, 0.97), (32, 0.94), (16, 0.9), (8, 0.7), (4, 0.6), (0, 0.5))


def gemm_time(op: Op, device: Device) -> KernelTime:
    """Return the time of a GEMM alone; its work is that of its shape, whatever counts as FLOPs."""
    m, n, k = op.shape[:3]
    batch = op.shape[3] if len(op.shape) > 3 else 1
    rate = peak_flops_per_s(device, op.dtype) * gemm_efficiency(device, op.dtype)
    rate *= alignment_factor(op)
    cost = min(
        (_tiled(m, n, k, batch, tile, split, device, rate) for tile, split in _kernels(op, device)),
        key=lambda parts: max(parts[0], memory_s(device, op.read_bytes + parts[1], op.write_bytes)),
    )
    compute, extra = cost
    memory = memory_s(device, op.read_bytes + extra, op.write_bytes)
    return KernelTime(compute, memory, device.kernels.floor_s)


def alignment_factor(op: Op) -> float:
    """Return what the alignment of the operands' contiguous dimensions leaves of the rate.

    With row-major tensors, `forward` runs along k in both operands, `dgrad` along k and n, `wgrad`
    along m and n; the output always along n.
    """
    m, n, k = op.shape[:3]
    contiguous = (m, n) if op.variant == "wgrad" else (n, k)
    width = {"fp64": 8.0, "fp32": 4.0, "tf32": 4.0, "fp8": 1.0, "fp4": 0.5}.get(op.dtype, 2.0)
    return min(
        next(share for align, share in _ALIGNMENT if not align or size * width % align == 0)
        for size in contiguous
    )


def _kernels(op: Op, device: Device) -> list[tuple[tuple[int, int], int]]:
    """List the tiles no larger than the device's, each with the useful cuts of k."""
    m, n, k = op.shape[:3]
    batch = op.shape[3] if len(op.shape) > 3 else 1
    rows, columns = device.kernels.gemm_tile
    found = []
    for tile in {(rows, columns), (columns, rows), *_TILES}:
        if tile[0] * tile[1] > rows * columns:
            continue
        tiles = batch * ceil(m / tile[0]) * ceil(n / tile[1])
        splits = {1}
        if tiles < device.sms:
            most = min(k // _SPLIT_K_MIN, device.sms // tiles)
            splits |= {s for s in (2, 4, 8, 16, 32, most) if 1 < s <= most}
        found += [(tile, split) for split in sorted(splits)]
    return sorted(found)


def _tiled(
    m: int,
    n: int,
    k: int,
    batch: int,
    tile: tuple[int, int],
    split: int,
    device: Device,
    rate: float,
) -> tuple[float, float]:
    """Return the math time with this tile and cut of k, and the bytes that the cut adds.

    A device's efficiency is stated for its own tile and long k; other tiles are scaled to it.
    """
    rows, columns = tile
    waves = ceil(batch * ceil(m / rows) * ceil(n / columns) * split / device.sms)
    share = _tile_share(*tile) / _tile_share(*device.kernels.gemm_tile)
    steps = (ceil(k / split) + _PIPELINE_K) / (1 + _PIPELINE_K / _REFERENCE_K)
    per_tile = 2.0 * rows * columns * steps
    extra = 2 * split * _PARTIAL_BYTES * batch * m * n if split > 1 else 0.0
    return waves * per_tile * device.sms / (rate * share), extra


def _tile_share(rows: int, columns: int) -> float:
    intensity = rows * columns / (rows + columns)
    return intensity / (intensity + _HALF_RATE_INTENSITY)
