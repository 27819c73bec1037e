"""Attention constants from measured kernels: a share of the peak, and what a short grid loses."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from desim.calibrate.search import minimise
from desim.kernels.attention import attention_time
from desim.models.op import Op
from desim.spec.hardware import AttentionEfficiency

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from desim.spec.hardware import AttentionBackend, Device

_LOWER, _UPPER = np.array([0.1, 0.0, 0.0]), np.array([1.0, 5.0, 8.0])
_START = np.array([0.5, 1.0, 2.0])  # tail and longest block as list scheduling has them


@dataclass(frozen=True)
class AttentionRow:
    """A measured kernel: `op` and its time alone."""

    op: Op
    seconds: float


def attention_rows(path: Path, device_name: str, variant: str) -> list[AttentionRow]:
    """Return the causal kernels of `op_efficiency.csv` for a device and pass.

    Of two layouts of the same shape, the contiguous one; the file counts FLOPs without the mask.
    """
    wanted = {"forward": "sdp_fwd", "backward": "sdp_bwd"}[variant]
    found = []
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            if (row["hw"], row["op"], row["layout"]) == (device_name, wanted, "contig"):
                size = {name: int(v) for name, v in re.findall(r"(\w+)=(\d+)", row["shape"])}
                found.append(AttentionRow(_op(size, variant), float(row["time_us"]) * 1e-6))
    return found


def fit_attention(
    device: Device,
    backend: AttentionBackend,
    variant: str,
    rows: list[AttentionRow],
    most: float = 1.0,
) -> tuple[float, float, float]:
    """Return share of the peak, tail and longest block that fit `rows` (logarithmic error).

    `most` bounds the share where another measurement does: on one sequence length alone, share
    and tail stand in for each other.
    """
    seconds = np.array([row.seconds for row in rows])

    def cost(point: NDArray[np.float64]) -> float:
        tried = with_constants(device, backend, variant, *map(float, point))
        times = np.array([attention_time(row.op, tried, backend).alone_s for row in rows])
        error = np.log(times / seconds)
        return float(np.mean(np.abs(error)) + 0.3 * np.sqrt(np.mean(error**2)))

    share, tail, longest = minimise(cost, _START, _LOWER, np.array([most, *_UPPER[1:]]))[0].tolist()
    return share, tail, longest


def with_constants(
    device: Device,
    backend: AttentionBackend,
    variant: str,
    share: float,
    tail: float,
    longest: float,
) -> Device:
    """Return the device with these constants of one backend and pass."""
    known = device.kernels.attention[backend]
    changed: AttentionEfficiency = known.model_copy(
        update={variant: share, f"{variant}_tail": tail, f"{variant}_longest": longest}
    )
    attention = {**device.kernels.attention, backend: changed}
    kernels = device.kernels.model_copy(update={"attention": attention})
    return device.model_copy(update={"kernels": kernels})


def _op(size: dict[str, int], variant: str) -> Op:
    """Return the causal op of a measured shape, bytes as forward reads and writes them."""
    batch, length, heads, kv_heads = size["b"], size["s"], size["h"], size["hkv"]
    dim, value_dim = size["dqk"], size["dv"]
    flops = batch * heads * length**2 * (dim + value_dim) * (2.5 if variant == "backward" else 1.0)
    read = 2.0 * batch * length * (heads * dim + kv_heads * (dim + value_dim))
    write = 2.0 * batch * length * heads * value_dim
    shape = (batch, heads, kv_heads, length, length, dim)
    return Op("attention", "attention", "bf16", flops, read, write, shape, variant)
