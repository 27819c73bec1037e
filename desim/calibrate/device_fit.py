"""The constants of a device from its table of measured kernels, with errors before and after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from desim.calibrate.attention import AttentionRow, fit_attention, with_constants
from desim.calibrate.cases import BOTH, HOST_COPY, TO_DEVICE, TO_HOST, Case
from desim.calibrate.gemm import GemmRows, fit_gemm
from desim.calibrate.lines import Line, fit_line
from desim.kernels.gemm import GemmUnit, accumulates, aligned_bytes
from desim.kernels.model import KernelModel
from desim.spec.hardware import AttentionEfficiency, GemmShape
from desim.spec.policy import Kernels

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from desim.kernels.table_file import MeasuredRow
    from desim.spec.hardware import AttentionBackend, Device, Dtype

_FEWEST = 12  # rows that determine the constants of a part; with fewer the device keeps its own
_WHOLE_LINES = 128  # bytes of alignment from which GEMMs run at the full rate


@dataclass(frozen=True, slots=True)
class Error:
    """Median and ninth decile of the relative errors of some rows, before and after the fit."""

    what: str
    rows: int
    before: tuple[float, float]
    after: tuple[float, float]


@dataclass(frozen=True, slots=True)
class DeviceFit:
    """A device with fitted constants.

    `changes` lists (constant, before, after), `copies` what host copies reached: (way, bytes per
    second each way).
    """

    device: Device
    errors: tuple[Error, ...]
    changes: tuple[tuple[str, float, float], ...]
    copies: tuple[tuple[str, float], ...]


def fit_device(device: Device, rows: Sequence[MeasuredRow]) -> DeviceFit:
    """Fit memory, GEMM and attention constants, in this order, each where rows suffice."""
    groups = _groups(rows)
    fitted = device
    streams = [row for name, group in groups.items() if name.startswith("memory") for row in group]
    if len(streams) >= _FEWEST:
        fitted = fit_memory(fitted, streams)
    for name, group in groups.items():
        kind, _, which = name.partition(" ")
        if kind == "gemm" and len(group) >= _FEWEST:
            fitted = fit_products(fitted, cast("Dtype", which), group)
        if kind == "attention":
            backend, variant = which.split()
            if len(group) >= _FEWEST:
                fitted = _fit_backend(fitted, cast("AttentionBackend", backend), variant, group)
    errors = tuple(_error(name, group, device, fitted) for name, group in groups.items())
    return DeviceFit(fitted, errors, _changes(device, fitted), _copies(rows))


def fit_memory(device: Device, rows: Sequence[MeasuredRow]) -> Device:
    """Fit seconds = floor + bytes / (bandwidth x efficiency), by least absolute relative errors."""
    crossing = np.array([row.op.read_bytes + row.op.write_bytes for row in rows])
    seconds = np.array([row.seconds for row in rows])
    features = np.stack([crossing / device.memory_bytes_per_s, np.ones(len(rows))], axis=1)
    every = np.ones(len(rows), np.bool_)
    line = Line(features, every, np.array([1.0, 0.0]), np.ones(2, np.bool_))
    inverse, floor_s = fit_line(line, every, seconds).tolist()
    changes = {"memory_efficiency": _digits(1.0 / inverse), "floor_s": _digits(floor_s)}
    return _with_kernels(device, changes)


def fit_products(device: Device, dtype: Dtype, rows: Sequence[MeasuredRow]) -> Device:
    """Fit the GEMMs of a format: level, dependence on the sizes, fp32 accumulation."""
    whole = [row for row in rows if aligned_bytes(row.op) >= _WHOLE_LINES]
    table = _gemm_rows(device, dtype, whole)
    if len(whole) < _FEWEST or table.accumulates.all():
        return device
    fit = fit_gemm([table])
    level = fit.levels[table.name]
    kernels = device.kernels
    shape = GemmShape(**{name: _digits(v) for name, v in fit.shape.model_dump().items()})
    share = min(_digits(level.efficiency), 1.0)
    changes: dict[str, object] = {
        "gemm_efficiency": {**kernels.gemm_efficiency, dtype: share},
        "gemm_shape": {**kernels.gemm_shape, dtype: shape},
    }
    if table.accumulates.sum() >= _FEWEST:
        changes["gemm_accumulate"] = min(_digits(level.accumulate), 1.0)
    return _with_kernels(device, changes)


def _gemm_rows(device: Device, dtype: Dtype, rows: Sequence[MeasuredRow]) -> GemmRows:
    kernels = device.kernels
    memory = device.memory_bytes_per_s * kernels.memory_efficiency
    peak = device.peak_flops_per_s[dtype]
    return GemmRows(
        name=f"{device.name} {dtype}",
        unit=GemmUnit(device.sms, peak, memory, kernels.gemm_tile, GemmShape()),
        sizes=np.array([[*row.op.shape[:3], 1.0] for row in rows], dtype=float).T,
        crossing_bytes=np.array([row.op.read_bytes + row.op.write_bytes for row in rows]),
        seconds=np.array([row.seconds for row in rows]),
        accumulates=np.array([accumulates(row.op) for row in rows]),
        overhead_s=kernels.floor_s,
    )


def _fit_backend(
    device: Device, backend: AttentionBackend, variant: str, rows: Sequence[MeasuredRow]
) -> Device:
    """Fit one pass of a backend; a device without it starts from half of the peak."""
    if backend not in device.kernels.attention:
        start = AttentionEfficiency(forward=0.5, backward=0.5)
        attention = {**device.kernels.attention, backend: start}
        device = _with_kernels(device, {"attention": attention})
    timed = [AttentionRow(row.op, row.seconds) for row in rows]
    found = map(_digits, fit_attention(device, backend, variant, timed))
    return with_constants(device, backend, variant, *found)


def _groups(rows: Sequence[MeasuredRow]) -> dict[str, list[MeasuredRow]]:
    """Rows by what errors are shown of: part and format, backend and pass, or kind."""
    found: dict[str, list[MeasuredRow]] = {}
    for row in rows:
        name = {
            "gemm": f"gemm {row.op.dtype}",
            "attention": f"attention {row.backend} {row.op.variant}",
            "memory": f"memory {row.op.kind}",
        }.get(Case(row.op).part)
        if name is not None:
            found.setdefault(name, []).append(row)
    return dict(sorted(found.items()))


def _error(name: str, rows: Sequence[MeasuredRow], before: Device, after: Device) -> Error:
    both = []
    for device in (before, after):
        backend = rows[0].backend if rows[0].op.kind == "attention" else "unfused"
        kernels = Kernels(attention=cast("AttentionBackend", backend), tables="none")
        model = KernelModel(device, kernels)
        times = np.array([model.alone(row.op).alone_s for row in rows])
        errors = np.abs(times / np.array([row.seconds for row in rows]) - 1)
        both.append((float(np.median(errors)), float(np.quantile(errors, 0.9))))
    return Error(name, len(rows), both[0], both[1])


def _changes(before: Device, after: Device) -> tuple[tuple[str, float, float], ...]:
    """Constants that differ, by their dotted names; one that was not there counts as NaN."""
    old, new = (
        dict(_leaves("", {**d.kernels.model_dump(), "floor_s": d.kernels.floor_s}))
        for d in (before, after)
    )
    return tuple((k, old.get(k, np.nan), v) for k, v in new.items() if old.get(k) != v)


def _leaves(path: str, value: object) -> list[tuple[str, float]]:
    if isinstance(value, dict):
        return [
            leaf
            for key, part in value.items()
            for leaf in _leaves(f"{path}.{key}" if path else str(key), part)
        ]
    return [(path, float(value))] if isinstance(value, (int, float)) else []


def _copies(rows: Sequence[MeasuredRow]) -> tuple[tuple[str, float], ...]:
    """Bandwidth of the largest copy each way, and of each way with both at once."""
    found = []
    for way in (TO_DEVICE, TO_HOST, BOTH):
        mine = [row for row in rows if row.op.kind == HOST_COPY and row.op.variant == way]
        if mine:
            largest = max(mine, key=lambda row: row.op.shape)
            found.append((way, largest.op.shape[0] / largest.seconds))
    return tuple(found)


def _with_kernels(device: Device, changes: Mapping[str, object]) -> Device:
    kernels = device.kernels.model_copy(update=dict(changes))
    return device.model_copy(update={"kernels": kernels})


def _digits(value: float) -> float:
    """Three significant digits: more than a measurement has."""
    return float(f"{value:.3g}")
