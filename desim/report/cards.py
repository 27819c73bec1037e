"""The headline of a run, in words that the summary and the page share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from desim.analyze.memory import needed_by_stage
from desim.analyze.metrics import RECKONED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from desim.record import Record

_GIB = 2.0**30


@dataclass(frozen=True, slots=True)
class Card:
    """One headline figure: what it is, its value and unit, and a remark below."""

    what: str
    value: str
    unit: str = ""
    more: str = ""
    bad: bool = False


def grouped(value: float, digits: int = 4) -> str:
    """Return a number to `digits` significant digits, thousands set apart by commas."""
    if value >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def cards(summary: Mapping[str, Any], record: Record) -> list[Card]:
    """Return the headline figures of a run, most important first."""
    found = [Card("step time", *_duration(float(summary["step_time_s"])), _throughput(summary))]
    for key, what, unit in (
        ("tokens_per_s_per_device", "tokens per second per GPU", "tokens/s"),
        ("samples_per_s", "samples per second", "samples/s"),
    ):
        if summary.get(key):
            found.append(Card(what, grouped(float(summary[key])), unit, _remark(summary, key)))
    found.extend(_cost(summary))
    mfu, rate = summary.get("mfu"), summary.get("model_tflop_per_s_per_device")
    if mfu is not None:
        hfu = f"{100 * float(summary['hfu']):.1f} % with recomputation (HFU)"
        found.append(Card("model FLOPs utilisation", f"{100 * float(mfu):.1f}", "%", hfu))
    if rate is not None:
        peak = f"of {float(rate) / float(mfu):,.0f} TFLOP/s dense peak" if mfu else ""
        found.append(Card("model FLOP/s per GPU", f"{float(rate):.1f}", "TFLOP/s", peak))
    return [*found, _memory(summary, record)]


def _duration(seconds: float) -> tuple[str, str]:
    if seconds >= 1:
        return f"{seconds:.4g}", "s"
    return f"{seconds * 1e3:.4g}", "ms"


def _throughput(summary: Mapping[str, Any]) -> str:
    tokens = summary.get("tokens_per_s")
    return f"{grouped(float(tokens))} tokens/s on all GPUs" if tokens else ""


def _remark(summary: Mapping[str, Any], key: str) -> str:
    """Say how long 10^12 tokens take, which is how training runs are budgeted."""
    if key == "tokens_per_s_per_device" and summary.get("tokens_per_s"):
        return f"{1e12 / float(summary['tokens_per_s']) / 86400:,.1f} days per trillion tokens"
    each = summary.get("samples_per_s_per_device")
    return f"{grouped(float(each))} samples/s per GPU" if each else ""


def _cost(summary: Mapping[str, Any]) -> Iterator[Card]:
    """What training costs, where a GPU-hour has a price."""
    for many, _ in RECKONED.values():
        if f"cost_per_{many}" in summary:
            hours = grouped(float(summary[f"device_hours_per_{many}"]))
            value = grouped(float(summary[f"cost_per_{many}"]))
            yield Card(f"cost per {many.replace('_', ' ')}", value, "", f"{hours} GPU-hours")


def _memory(summary: Mapping[str, Any], record: Record) -> Card:
    peaks = {str(stage): float(size) for stage, size in summary["peak_memory_bytes"].items()}
    stage = max(peaks, key=lambda name: peaks[name])
    capacity = float(record.details.get("device_memory_bytes", 0.0))
    verdict = "fits" if summary["fits"] else "does not fit"
    held = f" in {capacity / _GIB:.1f} GiB" if capacity else ""
    if capacity and not summary["fits"]:
        excess = max(needed_by_stage(summary).values()) - capacity
        held += f": {excess / _GIB:.1f} GiB too much"
    where = f" (stage {stage})" if len(peaks) > 1 else ""
    size = f"{peaks[stage] / _GIB:.1f}"
    return Card("peak memory" + where, size, "GiB", f"{verdict}{held}", not summary["fits"])


def subtitle(summary: Mapping[str, Any]) -> str:
    """Return the size of the job in a line."""
    billions = float(summary["parameters"]) / 1e9
    size = f"{billions:.1f} billion" if billions >= 1 else f"{billions * 1e3:.1f} million"
    devices = f"{int(summary['num_devices']):,} {summary.get('device', 'GPUs')}"
    parts = [devices, f"{size} parameters"]
    return ", ".join([*parts, *([str(summary["mesh"])] if summary.get("mesh") else [])])


def footer(summary: Mapping[str, Any]) -> str:
    """Return what the simulation itself took."""
    tasks, classes, events = (int(summary[key]) for key in ("tasks", "rank_classes", "events"))
    kinds = "1 kind of rank" if classes == 1 else f"{classes:,} kinds of ranks"
    return (
        f"desim simulated {tasks:,} tasks of {kinds} with {events:,} events"
        f" in {float(summary['simulate_wall_s']):.2f} s"
    )
