"""Rules of pipeline schedules: stages, chunks and micro-batches that each of them needs."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

from desim.spec.rules.finding import (
    Finding,
    Rule,
    data_size,
    micro_batches,
    nearest_multiples,
)
from desim.spec.scenario import Scenario
from desim.spec.schedules import DUALPIPE, INTERLEAVED, TWO_CHUNKS, ZERO_BUBBLE

SCHEDULE = ("policies.schedule", "parallel.virtual_stages", "parallel.pipeline")
BATCH = (
    "parallel.tensor", "parallel.context", "parallel.data", "cluster.devices",
    "workload.global_batch", "workload.micro_batch",
)  # fmt: skip
#: Fewest micro-batches of a schedule, over the pipeline's stages; 1F1B and others take any number.
_FEWEST = {"interleaved": 1, "breadth_first": 1, "dualpipe": 2, "dualpipe_v": 2}


def interleaving_fits(scenario: Scenario) -> Iterator[Finding]:
    """Interleaved 1F1B needs stages and chunks.

    Narayanan et al. 2021 (arXiv 2104.04473), section 2.2.
    """
    parallel = scenario.parallel
    if scenario.policies.schedule != "interleaved":
        return
    if parallel.pipeline < 2:
        rule = "the interleaved schedule needs pipeline >= 2"
        yield Finding("parallel.pipeline", rule, parallel.pipeline, "or set schedule: 1f1b")
    if parallel.virtual_stages < 2:
        rule = "the interleaved schedule needs virtual_stages >= 2"
        hint = "nearest: 2, or set schedule: 1f1b"
        yield Finding("parallel.virtual_stages", rule, parallel.virtual_stages, hint)


def micro_batches_suffice(scenario: Scenario) -> Iterator[Finding]:
    """Some schedules cannot fill the pipeline with fewer micro-batches than stages, or twice that.

    DualPipe sends half of them each way.
    """
    size, count = data_size(scenario), micro_batches(scenario)
    schedule, stages = scenario.policies.schedule, scenario.parallel.pipeline
    factor = _FEWEST.get(schedule)
    if factor is None or count is None or size is None:
        return
    workload = scenario.workload
    fewest = factor * stages
    given = f"{workload.global_batch} / ({workload.micro_batch} x {size}) = {count}"
    unit = workload.micro_batch * size
    if count < fewest:
        product = f"{factor} x {stages} = {fewest}" if factor > 1 else str(fewest)
        rule = f"schedule {schedule} needs at least {product} micro-batches: {given}"
        hint = f"nearest: {unit * fewest}, or set schedule: 1f1b"
        yield Finding("workload.global_batch", rule, workload.global_batch, hint)
    elif schedule == "dualpipe" and count % 2:
        rule = f"schedule dualpipe sends half of the micro-batches each way: {given} is odd"
        hint = f"nearest: {unit * (count - 1)} or {unit * (count + 1)}"
        yield Finding("workload.global_batch", rule, workload.global_batch, hint)


def micro_batches_fill(scenario: Scenario) -> Iterator[Finding]:
    """Fewer micro-batches than a zero-bubble schedule holds leave bubbles; rounds may be uneven."""
    size, count = data_size(scenario), micro_batches(scenario)
    schedule, stages = scenario.policies.schedule, scenario.parallel.pipeline
    if count is None or size is None or stages < 2:
        return
    workload = scenario.workload
    unit = workload.micro_batch * size
    filled = {"zb_h2": 2 * stages - 1, "zb_2p": 2 * stages - 1}.get(schedule, stages)
    if schedule in ZERO_BUBBLE and count < filled:
        text = (
            f"{count} micro-batches ({workload.global_batch} / {unit}) leave bubbles that schedule"
            f" {schedule} fills from {filled} on"
        )
        hint = f"nearest: {unit * filled}"
        yield Finding("workload.global_batch", text, workload.global_batch, hint, note=True)
    if schedule == "interleaved" and count > stages and count % stages:
        rounds = count // stages
        least, longer = divmod(count, rounds)
        sizes = f"{least + 1} and {least}: PyTorch takes equal ones only" if longer else f"{least}"
        text = f"{count} micro-batches on {stages} stages go in {rounds} round(s) of {sizes}"
        hint = f"equal: {nearest_multiples(workload.global_batch, unit * stages)}" if longer else ""
        yield Finding("workload.global_batch", text, workload.global_batch, hint, note=True)


def splitting_fits(scenario: Scenario) -> Iterator[Finding]:
    """Zero-bubble schedules need stages; DualPipe an even number of them.

    Qi et al. 2024 (arXiv 2401.10241), sections 2 and 6; DeepSeek-AI 2024 (arXiv 2412.19437), 3.2.1.
    """
    parallel, policies = scenario.parallel, scenario.policies
    schedule, stages = policies.schedule, parallel.pipeline
    if schedule in (*ZERO_BUBBLE, *DUALPIPE) and stages < 2:
        rule = f"schedule {schedule} needs pipeline >= 2: one stage has no bubble to fill"
        yield Finding("parallel.pipeline", rule, stages, "or set schedule: 1f1b")
    elif schedule == "dualpipe" and stages % 2:
        rule = (
            "schedule dualpipe pairs each stage with one of the other half: pipeline must be even"
        )
        hint = f"nearest: {stages - 1} or {stages + 1}, or set schedule: dualpipe_v"
        yield Finding("parallel.pipeline", rule, stages, hint)
    if schedule == "zb_auto" and policies.schedule_memory * stages < 1:
        held = policies.schedule_memory * stages
        rule = f"leaves no room for one micro-batch: {policies.schedule_memory:g} x {stages} stages"
        hint = f"at least {ceil(1e4 / stages) / 1e4:g}"
        chosen = policies.schedule_memory
        yield Finding("policies.schedule_memory", f"{rule} = {held:g}", chosen, hint)


def schedule_choices_are_used(scenario: Scenario) -> Iterator[Finding]:
    """What belongs to other schedules, or to pipelines, is named, not refused."""
    policies, schedule = scenario.policies, scenario.policies.schedule
    if policies.schedule_memory != 1.0 and schedule != "zb_auto":
        text = f"has no effect under schedule {schedule}: schedule: zb_auto uses it"
        yield Finding("policies.schedule_memory", text, policies.schedule_memory, note=True)
    if policies.custom is not None and schedule != "custom":
        text = f"has no effect under schedule {schedule}: schedule: custom uses it"
        yield Finding("policies.custom", text, note=True)
    validated = policies.post_validation
    if validated is True and not policies.gradient_clipping:
        text = "has no effect without gradient_clipping: no norm is reduced"
        yield Finding("policies.post_validation", text, validated, note=True)
    elif validated is True and scenario.parallel.pipeline == 1:
        text = "has no effect without a pipeline: there is no stage before"
        yield Finding("policies.post_validation", text, validated, note=True)
    elif validated is False and schedule not in ZERO_BUBBLE:
        text = f"has no effect under schedule {schedule}: it waits for the norm of all gradients"
        yield Finding("policies.post_validation", text, validated, note=True)


def virtual_stages_are_used(scenario: Scenario) -> Iterator[Finding]:
    """Virtual stages belong to interleaved schedules; others have a number of their own."""
    count, schedule = scenario.parallel.virtual_stages, scenario.policies.schedule
    own = 2 if schedule in TWO_CHUNKS else 1
    if schedule == "custom" and scenario.policies.custom is not None:
        own = scenario.policies.custom.chunks
    if count not in (1, own) and schedule not in INTERLEAVED:
        text = f"virtual_stages has no effect under schedule {schedule} and is taken as {own}"
        hint = "schedule: interleaved uses it"
        yield Finding("parallel.virtual_stages", text, count, hint, note=True)


RULES = (
    Rule(interleaving_fits, SCHEDULE),
    Rule(micro_batches_suffice, (*SCHEDULE, *BATCH)),
    Rule(micro_batches_fill, (*SCHEDULE, *BATCH)),
    Rule(virtual_stages_are_used, SCHEDULE),
    Rule(splitting_fits, (*SCHEDULE, "policies")),
    Rule(schedule_choices_are_used, (*SCHEDULE, "policies")),
)
