"""What ZeRO-2 and -3 would move under a pipeline, by what ZeRO-1 moves once a step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from desim.plan.build import make_context
from desim.plan.pipeline_step import stage_chunks
from desim.plan.schedules import layout_of
from desim.plan.step_ends import StepEnds
from desim.units import show

if TYPE_CHECKING:
    from desim.plan.context import Context
    from desim.spec.scenario import Scenario


def repeated_text(scenario: Scenario, zero: int) -> str:
    """Say what the fullest stage of a ZeRO-1 `scenario` would move under ZeRO-2 or -3.

    Nothing where there is nobody to share with.
    """
    context = make_context(scenario)
    stages = _stage_bytes(context, zero)
    most = max(stages)
    if not most:
        return ""
    passes, sides = _passes(scenario, zero)
    # Of two pipelines that share the stages each has half of the micro-batches.
    pipelines = 2 if layout_of(scenario.policies).mirrored else 1
    count = context.micro_batches // pipelines
    whole = show(count * passes * most, "bytes")
    once = show(most, "bytes")
    return (
        f"{count} micro-batches x {sides}{once} (stage {stages.index(most)}) = {whole} "
        f"per rank and step, {once} under zero: 1"
    )


def _passes(scenario: Scenario, zero: int) -> tuple[int, str]:
    """How often a micro-batch would need a shard, and how that is written."""
    if zero == 3 and scenario.policies.fsdp.reshard_after_forward:
        return 2, "2 (forward and backward) x "
    return 1, ""


def _stage_bytes(context: Context, zero: int) -> list[float]:
    """Bytes that each stage reduces in a step (of ZeRO-2) or gathers (of ZeRO-3) under ZeRO-1."""
    found = []
    for stage, chunks in enumerate(stage_chunks(context)):
        ends = StepEnds(context, stage, chunks)
        if zero == 2:
            width = context.gradient_width.reduced_bytes
            parts = [b.parameters * width for buckets in ends.buckets for b in buckets]
        else:
            shares = [share for shares in ends.gathers.shares for share in shares]
            parts = [context.gathered_bytes(share.parameters, share.quantized) for share in shares]
        found.append(float(sum(parts)))
    return found
