"""The GEMM tables of `validation/` as rows of a fit."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from desim.calibrate.gemm import GemmRows
from desim.kernels.gemm import GemmUnit
from desim.models.width import stored_bytes
from desim.spec.hardware import GemmShape

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from numpy.typing import NDArray

    from desim.spec.hardware import Device, Dtype

_DTYPES: dict[str, Dtype] = {"bfloat16": "bf16", "fp16": "fp16", "fp8": "fp8", "nvfp4": "fp4"}

#: `gpu` of gemm.csv and `hw` of op_efficiency.csv -> device file
DEVICES = {
    "a100_sxm": "a100_sxm_80gb",
    "h100_sxm": "h100_sxm_80gb",
    "h200_sxm": "h200_sxm_141gb",
    "b200_sxm": "b200_sxm_180gb",
    "gb200": "gb200",
    "A100-80GB-PCIe": "a100_pcie_80gb",
    "B200-SXM": "b200_sxm_180gb",
}

#: Kernels of these formats convert activations first in TensorRT-LLM, whose GEMMs gemm.csv has.
_CAST_FORMATS = ("fp8", "fp4")


def burst_rows(path: Path, device: Callable[[str], Device]) -> dict[tuple[str, str], GemmRows]:
    """Return `gemm.csv` by (gpu, dtype): bursts with a warm L2 cache, every row a grid point.

    `device` loads a device file by name. Rows of GPUs without a file, and rows that state only the
    best of many shapes, are left out. LLMCompass timed single calls from the host: its smallest
    time is the overhead of all.
    """
    found: dict[tuple[str, str], list[dict[str, str]]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["gpu"] in DEVICES and row["dtype"] in _DTYPES:
                found.setdefault((row["gpu"], _DTYPES[row["dtype"]]), []).append(row)
    return {key: _burst(key, rows, device(DEVICES[key[0]])) for key, rows in found.items()}


def training_rows(path: Path, device: Callable[[str], Device]) -> dict[str, GemmRows]:
    """Return the GEMMs of `op_efficiency.csv` by device: layouts of training, sustained clock."""
    found: dict[str, list[tuple[list[int], float, bool]]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            size = {name: int(v) for name, v in re.findall(r"(\w+)=(\d+)", row["shape"])}
            if row["op"] != "matmul" or "m" not in size:
                continue
            shape = [size[name] for name in ("m", "n", "k")] + [size.get("b", 1)]
            adds = row["extra"] == "accumulate=True;out=fp32"
            found.setdefault(row["hw"], []).append((shape, float(row["time_us"]) * 1e-6, adds))
    result = {}
    for name, listed in found.items():
        sizes = np.array([row[0] for row in listed], dtype=float).T
        adds = np.array([row[2] for row in listed])
        unit = _unit(device(DEVICES[name]), "bf16")
        seconds = np.array([row[1] for row in listed])
        crossing = _crossing(sizes, 2.0, np.where(adds, 8.0, 2.0))
        result[name] = GemmRows(f"{name} training", unit, sizes, crossing, seconds, adds)
    return result


def held_back(rows: GemmRows, part: int, parts: int = 3) -> NDArray[np.bool_]:
    """Return which rows belong to `part` of the (n, k) families, in the order of a Latin square.

    Whole families are held back: no size of theirs is seen by the fit.
    """
    widths, depths = (sorted(set(rows.sizes[i].tolist())) for i in (1, 2))
    place = [
        widths.index(n) + depths.index(k) for n, k in zip(rows.sizes[1], rows.sizes[2], strict=True)
    ]
    return np.asarray(np.array(place) % parts == part, dtype=bool)


def _burst(key: tuple[str, str], rows: list[dict[str, str]], device: Device) -> GemmRows:
    gpu, dtype = key
    sizes = np.array([[float(row[name]) for name in ("m", "n", "k")] + [1.0] for row in rows]).T
    seconds = np.array([float(row["time_ms"]) * 1e-3 for row in rows])
    hosted = "LLMCompass" in rows[0]["source"]
    return GemmRows(
        f"{gpu} {dtype} burst",
        _unit(device, dtype),
        sizes,
        _crossing(sizes, stored_bytes(dtype), 2.0),
        seconds,
        np.zeros(len(rows), dtype=bool),
        overhead_s=float(seconds.min()) if hosted else device.kernels.floor_s,
        burst=True,
        casts=dtype in _CAST_FORMATS,
    )


def _unit(device: Device, dtype: str) -> GemmUnit:
    kernels = device.kernels
    peaks: dict[Any, float] = {**device.peak_flops_per_s}
    memory = device.memory_bytes_per_s * kernels.memory_efficiency
    return GemmUnit(device.sms, peaks[dtype], memory, kernels.gemm_tile, GemmShape())


def _crossing(sizes: NDArray[np.float64], operand: float, output: Any) -> NDArray[np.float64]:
    m, n, k, batch = sizes
    crossing: NDArray[np.float64] = batch * ((m * k + k * n) * operand + m * n * output)
    return crossing
