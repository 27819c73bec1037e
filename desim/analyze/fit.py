"""What would make a job fit its devices: memory estimates of its nearest variants."""

from __future__ import annotations

from typing import TYPE_CHECKING

from desim.errors import SpecError
from desim.plan.build import build_programs, make_context
from desim.plan.reserve import outside_bytes, reserved_bytes
from desim.spec.load import load_scenario

if TYPE_CHECKING:
    from collections.abc import Iterator

    from desim.spec.scenario import Scenario


def estimate_peaks(scenario: Scenario) -> dict[str, float]:
    """Return the peak memory in bytes of every stage, without playing the scenario."""
    _, ledgers = build_programs(make_context(scenario))
    return {str(stage): ledger.peak_bytes for stage, ledger in enumerate(ledgers)}


def estimate_needs(scenario: Scenario) -> dict[str, float]:
    """Return what every stage needs of its device in bytes, without playing the scenario."""
    context = make_context(scenario)
    programs, ledgers = build_programs(context)
    return {
        str(stage): max(reserved_bytes(ledger), ledger.peak_bytes) + outside_bytes(context, program)
        for stage, (program, ledger) in enumerate(zip(programs, ledgers, strict=True))
    }


def savings(scenario: Scenario, stage: int) -> dict[str, float]:
    """Bytes that each single change, itself a valid scenario, takes off the need of `stage`."""
    peak = estimate_needs(scenario)[str(stage)]
    plain = scenario.model_dump(mode="json", by_alias=True, exclude_none=True)
    found = {}
    for changes in _changes(scenario):
        try:
            variant = load_scenario(plain, changes).scenario
        except SpecError:
            continue
        found[changes[0].replace("=", ": ")] = peak - max(estimate_needs(variant).values())
    return found


def _changes(scenario: Scenario) -> Iterator[list[str]]:
    """Overrides that use less memory; the first of each names the change."""
    parallel, workload = scenario.parallel, scenario.workload
    if workload.model.family == "transformer":
        yield ["policies.recompute=selective"]
        yield ["policies.recompute=per_op"]
        yield ["policies.recompute=full"]
    if workload.micro_batch % 2 == 0:
        yield [f"workload.micro_batch={workload.micro_batch // 2}"]
    for zero in range(parallel.zero + 1, 4):
        yield [f"parallel.zero={zero}"]
    yield [f"parallel.tensor={parallel.tensor * 2}", "parallel.data=auto"]
    yield [f"parallel.pipeline={parallel.pipeline * 2}", "parallel.data=auto"]
