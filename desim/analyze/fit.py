"""What would make a job fit its devices: memory estimates of its nearest variants."""

from __future__ import annotations

from typing import TYPE_CHECKING

from desim.errors import SpecError
from desim.plan.build import build_programs, make_context

if TYPE_CHECKING:
    from collections.abc import Iterator

    from desim.spec.scenario import Scenario


def estimate_peaks(scenario: Scenario) -> dict[str, float]:
    """Return the peak memory in bytes of every stage, without playing the scenario."""
    _, ledgers = build_programs(make_context(scenario))
    return {str(stage): ledger.peak_bytes for stage, ledger in enumerate(ledgers)}


def savings(scenario: Scenario, stage: int) -> dict[str, float]:
    """Bytes that each single change takes off the peak of `stage`."""
    peak = estimate_peaks(scenario)[str(stage)]
    found = {}
    for change, variant in _variants(scenario):
        try:
            found[change] = peak - max(estimate_peaks(variant).values())
        except (SpecError, ValueError, AssertionError):
            continue
    return found


def _variants(scenario: Scenario) -> Iterator[tuple[str, Scenario]]:
    """Scenarios that differ in one choice and use less memory."""
    policies, parallel, workload = scenario.policies, scenario.parallel, scenario.workload
    for recompute in ("selective", "full"):
        if policies.recompute not in (recompute, "full"):
            changed = policies.model_copy(update={"recompute": recompute})
            yield (
                f"policies.recompute: {recompute}",
                scenario.model_copy(update={"policies": changed}),
            )
    if workload.micro_batch % 2 == 0:
        half = workload.micro_batch // 2
        smaller = workload.model_copy(update={"micro_batch": half})
        yield f"workload.micro_batch: {half}", scenario.model_copy(update={"workload": smaller})
    stricter = 1 if parallel.zero == 0 else 3
    if parallel.pipeline == 1 and workload.model.family == "transformer" and parallel.zero < 3:
        sharded = parallel.model_copy(update={"zero": stricter})
        yield f"parallel.zero: {stricter}", scenario.model_copy(update={"parallel": sharded})
    data = int(parallel.data)
    for axis in ("tensor", "pipeline"):
        cut = {axis: getattr(parallel, axis) * 2, "data": data // 2}
        if data % 2 == 0 and _divides(scenario, cut):
            wider = parallel.model_copy(update=cut)
            yield f"parallel.{axis}: {cut[axis]}", scenario.model_copy(update={"parallel": wider})


def _divides(scenario: Scenario, cut: dict[str, int]) -> bool:
    """Whether a mesh with twice the tensor or pipeline size can hold the model and batch."""
    model, parallel = scenario.workload.model, scenario.parallel
    if model.family != "transformer" or parallel.stage_layers is not None:
        return False
    if parallel.zero == 3 and cut.get("pipeline", 1) > 1:
        return False
    stages = cut.get("pipeline", parallel.pipeline) * parallel.virtual_stages
    tensor = cut.get("tensor", parallel.tensor)
    domain = scenario.cluster.system.nvlink_domain
    return model.layers % stages == 0 and model.kv_heads % tensor == 0 and tensor <= domain
