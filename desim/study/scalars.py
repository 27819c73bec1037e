"""The scalars of a summary, as columns of a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from desim.analyze.accounting import CATEGORIES, EXPOSED
from desim.kernels.time import SOURCES

#: Not results of a scenario: what it is called, and what was spent on it.
_LEFT_OUT = ("name", "events", "simulate_wall_s")
#: Scalars of `desim.analyze.metrics.summarize`; some of language models or recommendation alone.
_ALONE = (
    "step_time_s", "tokens_per_s", "tokens_per_s_per_device", "samples_per_s",
    "samples_per_s_per_device", "device_hours_per_trillion_tokens", "cost_per_trillion_tokens",
    "device_hours_per_billion_samples", "cost_per_billion_samples", "model_tflop_per_s_per_device",
    "mfu", "hfu", "parameters", "num_devices", "device", "mesh", "rank_classes", "tasks", "fits",
)  # fmt: skip
_BYTES = (
    "peak_memory_bytes", "peak_allocated_bytes", "peak_reserved_bytes", "outside_memory_bytes",
)  # fmt: skip
#: Entries of `communication`; a summary has those of the lanes that are used.
COMMUNICATION = tuple(dict.fromkeys(c.removeprefix("exposed_") for c in EXPOSED.values()))
#: What stands below it depends on the model: kinds of kernels.
OPEN = "compute_by_kind"


def scalars(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scalars of a summary, those of nested mappings with dots in their names.

    Of bytes by stage `.max` is the largest.
    """
    result: dict[str, Any] = {}
    for key, value in summary.items():
        if key not in _LEFT_OUT:
            _flatten(key, value, result)
    return result


def scalar_names() -> list[str]:
    """Return the names that scalars of any scenario may have, of stages the first, without `OPEN`.

    A scenario has those of its own kind of model, stages and lanes.
    """
    return [
        *_ALONE,
        *(f"{share}.{c}" for share in ("time_share", "critical_path_share") for c in CATEGORIES),
        *(f"{name}.{stage}" for name in _BYTES for stage in ("max", "0")),
        *(f"stage_time_share.0.{category}" for category in CATEGORIES),
        *(
            f"communication.{of}.{part}"
            for of in COMMUNICATION
            for part in ("total_s", "exposed_s")
        ),
        *(f"kernel_time_share.{source}" for source in SOURCES),
    ]


def _flatten(key: str, value: Any, result: dict[str, Any]) -> None:
    if isinstance(value, Mapping):
        if key.endswith("_bytes") and value:
            result[f"{key}.max"] = max(value.values())
        for below, part in value.items():
            _flatten(f"{key}.{below}", part, result)
    elif isinstance(value, (bool, int, float, str)):
        result[key] = value
