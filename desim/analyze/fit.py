"""What would make a job fit its devices: memory estimates of its nearest variants."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from desim.errors import SpecError
from desim.plan.build import build_programs, make_context
from desim.plan.reserve import outside_bytes, reserved_bytes
from desim.spec.load import load_scenario

if TYPE_CHECKING:
    from collections.abc import Iterator

    from desim.spec.scenario import Scenario


class Estimate(NamedTuple):
    """Memory of a stage: the peak of its ledger, and what it needs of its device with the rest."""

    peak_bytes: float
    needed_bytes: float


def estimate_memory(scenario: Scenario) -> list[Estimate]:
    """Return the memory of every stage, without playing the scenario."""
    context = make_context(scenario)
    programs, ledgers = build_programs(context)
    return [
        Estimate(
            ledger.peak_bytes,
            max(reserved_bytes(ledger), ledger.peak_bytes) + outside_bytes(context, program),
        )
        for program, ledger in zip(programs, ledgers, strict=True)
    ]


def savings(scenario: Scenario, stage: int) -> dict[str, float]:
    """Bytes that each single change, itself a valid scenario, takes off the need of `stage`."""
    need = estimate_memory(scenario)[stage].needed_bytes
    plain = scenario.model_dump(mode="json", by_alias=True, exclude_none=True)
    found = {}
    for changes in _changes(scenario):
        try:
            variant = load_scenario(plain, changes).scenario
        except SpecError:
            continue
        least = max(one.needed_bytes for one in estimate_memory(variant))
        found[changes[0].replace("=", ": ")] = need - least
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
