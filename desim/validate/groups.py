"""Labels that group rows: GPU, precision, parallelism, schedule, recomputation."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from desim.spec.scenario import Scenario
    from desim.validate.measurements import Measurement

UNKNOWN = "not stated"


def gpu(row: Measurement) -> str:
    """Return the GPU as the row names it."""
    return row.cells.get("gpu", "").strip() or UNKNOWN


def precision(row: Measurement) -> str:
    """Return the format of matrix products: NVFP4, MXFP8, FP8, 16 bit or not stated."""
    text = row.cells.get("precision", "").strip().lower()
    if "not stated" in text or not text:
        return UNKNOWN
    for name, words in (
        ("NVFP4", ("nvfp4",)),
        ("MXFP8", ("mxfp8", "fp8-mx")),
        ("FP8", ("fp8",)),
        ("bf16 or fp16", ("bf16", "fp16")),
    ):
        if any(word in text for word in words):
            return name
    return text


def parallelism(scenario: Scenario) -> str:
    """Return the axes along which the job is cut, such as `tp+pp+dp`; sharded data is `fsdp`."""
    parallel = scenario.parallel
    data = "fsdp" if parallel.zero == 3 else "dp"
    sizes = {
        "tp": parallel.tensor,
        "cp": parallel.context,
        "ep": parallel.expert,
        "pp": parallel.pipeline,
        data: 1 if parallel.data == "auto" else parallel.data,
    }
    return "+".join(axis for axis, size in sizes.items() if size > 1) or "one GPU"


def schedule(scenario: Scenario) -> str:
    """Return the pipeline's schedule, `none` without a pipeline."""
    return scenario.policies.schedule if scenario.parallel.pipeline > 1 else "none"


def recompute(scenario: Scenario) -> str:
    """Return what is recomputed."""
    return scenario.policies.recompute


#: What a scenario, rather than its row, tells.
OF_SCENARIO = {"parallelism": parallelism, "schedule": schedule, "recompute": recompute}
