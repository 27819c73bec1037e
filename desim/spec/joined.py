"""Which forward and backward passes a stage plays as one, their kernels in turns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from desim.spec.schedules import DUALPIPE

if TYPE_CHECKING:
    from desim.spec.scenario import Scenario


def unjoined(scenario: Scenario) -> str:
    """Why no passes of a job can be joined; nothing where some can.

    Both need inputs that do not come from each other: DualPipe's F&B; one stage with several
    micro-batches; several chunks, whose stages run ahead by two passes each, as Megatron-LM asks
    for (`--num-layers-per-virtual-pipeline-stage`). 1F1B's stages run ahead by one.
    """
    schedule, parallel = scenario.policies.schedule, scenario.parallel
    if schedule in (*DUALPIPE, "interleaved"):
        return ""
    if schedule != "1f1b":
        return (
            f"schedule {schedule} has no forward and backward passes to join: 1f1b on one stage,"
            " interleaved and dualpipe do"
        )
    if parallel.pipeline > 1:
        return (
            f"of {parallel.pipeline} stages under 1f1b each waits for a pass of the next, which"
            " waits for one of its own: schedule interleaved leaves time between them"
        )
    return ""


def exchanges(scenario: Scenario) -> bool:
    """Whether ranks exchange rows for their experts."""
    model = scenario.workload.model
    return model.family == "transformer" and bool(model.moe) and scenario.parallel.expert > 1


def joins_passes(scenario: Scenario) -> bool:
    """Whether the kernels of a forward and a backward pass take turns."""
    wanted = scenario.policies.experts.passes
    if not exchanges(scenario):
        return False
    if wanted == "auto":
        return scenario.policies.schedule in DUALPIPE
    return wanted == "joined" and not unjoined(scenario)
