"""The summary of a run: the numbers that are compared, all derived from plan and record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from desim.analyze.accounting import CATEGORIES
from desim.analyze.breakdown import breakdown
from desim.analyze.critical_path import critical_path, path_share
from desim.analyze.memory import stage_peaks
from desim.kernels.time import SOURCES
from desim.models.count import flops_per_sample, parameter_count
from desim.models.recipe import product_dtype
from desim.plan.documents import attention_share
from desim.record import PHASES, PS_PER_S

if TYPE_CHECKING:
    from desim.analyze.critical_path import Path
    from desim.plan.build import Plan
    from desim.record import Record

_RECOMPUTE = PHASES.index("recompute")
_SHOWN_ON_PATH = 12
_S_PER_HOUR = 3600
#: What a step's rate counts -> how many of it training is reckoned by, as a key says it.
RECKONED = {"tokens": ("trillion_tokens", 1e12), "samples": ("billion_samples", 1e9)}


def summarize(plan: Plan, record: Record) -> dict[str, Any]:
    """Return the contents of summary.json.

    Times in seconds, sizes in bytes. `mfu` and `hfu` are fractions of the dense peak of the compute
    format; a model FLOP is 6 per parameter in matrix products and token plus 12 L h s per token of
    attention, halved under a causal mask (a recommendation model: three times its forward matrix
    products). `hfu` adds what was recomputed. Where sequences are packed of documents, attention
    counts with the `attention_share` of its scores that are inside one.
    """
    step_s = record.step_time_ps / PS_PER_S
    share = attention_share(plan.scenario)
    parts = breakdown(record)
    path = critical_path(record)
    return {
        "name": plan.scenario.name,
        "step_time_s": step_s,
        **_throughput(plan, step_s),
        **_utilisation(plan, step_s, share),
        **({"attention_share": share} if plan.scenario.workload.documents else {}),
        **_job(plan),
        "rank_classes": len(record.classes),
        "tasks": record.num_tasks // record.num_steps,
        "events": record.num_events,
        "simulate_wall_s": record.simulate_wall_s,
        "time_share": parts.time_share,
        "critical_path_share": path_share(path),
        **_memory(plan, record),
        "stage_time_share": parts.stage_time_share,
        "communication": parts.communication,
        "compute_by_kind": parts.compute_by_kind,
        "kernel_time_share": kernel_time_share(plan),
        "critical_path": _largest(path, record),
    }


def _utilisation(plan: Plan, step_s: float, attention_share: float) -> dict[str, float]:
    """Rates of model FLOPs, absolute and as shares of the dense peak of the GEMMs' format."""
    workload, cluster = plan.scenario.workload, plan.scenario.cluster
    flops = flops_per_sample(workload, attention_share) * workload.global_batch
    peak = cluster.system.device.peak_flops_per_s[product_dtype(workload.precision)]
    rate = flops / step_s / cluster.devices
    return {
        "model_tflop_per_s_per_device": rate / 1e12,
        "mfu": rate / peak,
        "hfu": (flops + recomputed_flops(plan)) / step_s / cluster.devices / peak,
    }


def _job(plan: Plan) -> dict[str, Any]:
    """What runs on what."""
    sizes = plan.context.mesh.stated
    return {
        "parameters": parameter_count(plan.scenario.workload.model),
        "num_devices": plan.scenario.cluster.devices,
        "device": plan.scenario.cluster.system.device.name,
        "mesh": " ".join(f"{axis}{size}" for axis, size in sizes.items() if size > 1),
    }


def _memory(plan: Plan, record: Record) -> dict[str, Any]:
    """Peaks by stage (`peak_memory_bytes` are allocated), and whether all fit the device."""
    capacity = plan.scenario.cluster.system.device.memory_bytes
    peaks = stage_peaks(record)
    return {
        "peak_memory_bytes": {str(peak.stage): peak.peak_bytes for peak in peaks},
        "peak_allocated_bytes": {str(peak.stage): peak.peak_bytes for peak in peaks},
        "peak_reserved_bytes": {str(peak.stage): peak.reserved_bytes for peak in peaks},
        "outside_memory_bytes": {str(peak.stage): peak.outside_bytes for peak in peaks},
        "fits": all(peak.needed_bytes <= capacity for peak in peaks),
    }


def _throughput(plan: Plan, step_s: float) -> dict[str, float]:
    """Rates of tokens or samples, and the device-hours (with a price, the cost) of many."""
    workload, cluster = plan.scenario.workload, plan.scenario.cluster
    what, rate = "samples", workload.global_batch / step_s
    if workload.model.family != "dlrm":
        what, rate = "tokens", rate * workload.sequence_length
    many, number = RECKONED[what]
    hours = cluster.devices * number / rate / _S_PER_HOUR
    found = {
        f"{what}_per_s": rate,
        f"{what}_per_s_per_device": rate / cluster.devices,
        f"device_hours_per_{many}": hours,
    }
    if cluster.device_hour_price is not None:
        found[f"cost_per_{many}"] = hours * cluster.device_hour_price
    return found


def recomputed_flops(plan: Plan) -> float:
    """FLOPs that all ranks spend on recomputation in one step."""
    flops = np.array([op.flops for op in plan.context.tables.ops])
    ranks = np.bincount(plan.program_of, minlength=len(plan.programs))
    total = 0.0
    for program, count in zip(plan.programs, ranks.tolist(), strict=True):
        first, last = program.cut_tasks[-2], program.cut_tasks[-1]
        again = program.op[first:last][program.phase[first:last] == _RECOMPUTE]
        total += count * float(flops[again[again >= 0]].sum())
    return total


def kernel_time_share(plan: Plan) -> dict[str, float]:
    """Shares of the kernels' time alone, on all ranks in one step, by where it comes from.

    `measured` (in a table, or between its sizes), `extrapolated` (beyond them), `modelled`.
    """
    alone_s = np.array([time.alone_s for time in plan.kernel_times])
    sources = np.array([SOURCES.index(time.source) for time in plan.kernel_times])
    ranks = np.bincount(plan.program_of, minlength=len(plan.programs))
    total_s = np.zeros(len(SOURCES))
    for program, count in zip(plan.programs, ranks.tolist(), strict=True):
        ops = program.op[program.cut_tasks[-2] : program.cut_tasks[-1]]
        ops = ops[ops >= 0]
        total_s += count * np.bincount(sources[ops], alone_s[ops], minlength=len(SOURCES))
    whole_s = float(total_s.sum())
    shares = total_s / whole_s if whole_s else np.zeros(len(SOURCES))
    return dict(zip(SOURCES, shares.tolist(), strict=True))


def _largest(path: Path, record: Record) -> list[dict[str, Any]]:
    """The tasks that the critical path spends most time in, with their seconds per step."""
    pairs = path.category * len(record.names) + path.name
    found, of = np.unique(pairs, return_inverse=True)
    time_ps = np.bincount(of, path.end_ps - path.start_ps, minlength=len(found)).tolist()
    tasks = [divmod(pair, len(record.names)) for pair in found.tolist()]
    named = [(CATEGORIES[category], record.names[name]) for category, name in tasks]
    ordered = sorted(zip(named, time_ps, strict=True), key=lambda item: (-item[1], item[0]))
    return [
        {"category": category, "what": task, "seconds": time / record.num_steps / PS_PER_S}
        for (category, task), time in ordered[:_SHOWN_ON_PATH]
    ]
