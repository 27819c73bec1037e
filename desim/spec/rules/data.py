"""Rules of data parallelism and of messages between stages."""

from __future__ import annotations

from collections.abc import Iterator

from desim.spec.policy import Fsdp, Policies
from desim.spec.rules.finding import Finding, Rule, data_size, nearest_divisors
from desim.spec.scenario import Scenario
from desim.spec.workload import Dlrm


def bucket_choices_are_used(scenario: Scenario) -> Iterator[Finding]:
    """What shapes gradient buckets needs buckets of that kind."""
    policies, zero = scenario.policies, scenario.parallel.zero
    if isinstance(scenario.workload.model, Dlrm):
        return
    by_layer = policies.overlap.grad_reduce == "per_layer"
    if by_layer and zero == 3:
        text = "has no effect: parallel.zero: 3 reduces layer by layer (policies.fsdp)"
        yield Finding("policies.overlap.grad_reduce", text, "per_layer", note=True)
    if policies.overlap.param_gather == "chained" and zero not in (1, 2):
        text = f"has no effect: parallel.zero: {zero} gathers no buckets"
        yield Finding("policies.overlap.param_gather", text, "chained", note=True)
    if policies.bucket_bytes is not None and (by_layer or zero == 3):
        why = "overlap.grad_reduce: per_layer" if by_layer and zero < 3 else "parallel.zero: 3"
        text = f"has no effect: {why} reduces layer by layer"
        yield Finding("policies.bucket", text, policies.bucket_bytes, note=True)
    whole = policies.zero_partition == "tensors" and zero == 1
    if policies.bucket_padding != Policies().bucket_padding and (zero not in (1, 2) or whole):
        text = "has no effect: buckets are padded where ZeRO-1 or 2 shards them"
        yield Finding("policies.bucket_padding", text, policies.bucket_padding, note=True)
    if policies.reduce_every_micro_batch and zero >= 2:
        why = "ZeRO-2 always does" if zero == 2 else "fsdp.reduce_every_micro_batch says it"
        text = f"has no effect under parallel.zero: {zero}: {why}"
        yield Finding("policies.reduce_every_micro_batch", text, True, note=True)


def fsdp_choices_are_used(scenario: Scenario) -> Iterator[Finding]:
    """FSDP's choices need ZeRO-3, and those of an explicit prefetch need that."""
    fsdp, zero, usual = scenario.policies.fsdp, scenario.parallel.zero, Fsdp()
    if zero != 3:
        if fsdp != usual:
            text = f"has no effect: parallel.zero is {zero}; zero: 3 gathers layer by layer"
            yield Finding("policies.fsdp", text, note=True)
        return
    unused = []
    if fsdp.issue != "explicit":
        unused += ["prefetch", "prefetch_backward"]
    if fsdp.issue == "implicit":
        unused.append("gathers_in_flight")
    for name in unused:
        value = getattr(fsdp, name)
        if value != getattr(usual, name):
            text = f"has no effect under fsdp.issue: {fsdp.issue}"
            yield Finding(f"policies.fsdp.{name}", text, value, note=True)


def reshard_divides(scenario: Scenario) -> Iterator[Finding]:
    """Neighbours that keep layers among themselves divide the ranks that shard them."""
    parallel, kept = scenario.parallel, scenario.policies.fsdp.reshard_after_forward
    size = data_size(scenario)
    if isinstance(kept, bool) or parallel.zero != 3 or size is None:
        return
    path, ranks = "policies.fsdp.reshard_after_forward", size * parallel.context
    if parallel.shard is not None:
        rule = f"a number keeps layers among neighbours, and parallel.shard: {parallel.shard} does"
        yield Finding(path, rule, kept, "set true or false, or leave parallel.shard out")
    elif kept >= ranks or ranks % kept:
        rule = (
            "must divide the data-parallel ranks and be fewer: data x context = "
            f"{size} x {parallel.context} = {ranks}, {ranks} / {kept} leaves {ranks % kept}"
        )
        nearest = nearest_divisors(ranks, kept, limit=max(ranks // 2, 1))
        yield Finding(path, rule, kept, f"nearest: {nearest}, or true")


def messages_are_posted(scenario: Scenario) -> Iterator[Finding]:
    """Asynchronous messages go beyond Megatron-LM except under the interleaved schedule."""
    overlap, schedule = scenario.policies.overlap, scenario.policies.schedule
    if scenario.parallel.pipeline == 1 or isinstance(scenario.workload.model, Dlrm):
        return
    if overlap.pipeline == "blocking" and overlap.receive_ahead != 1:
        text = "has no effect under overlap.pipeline: blocking"
        yield Finding("policies.overlap.receive_ahead", text, overlap.receive_ahead, note=True)
    if overlap.pipeline == "async" and schedule in ("1f1b", "gpipe"):
        text = f"Megatron-LM has no asynchronous messages under schedule {schedule}"
        hint = "it has them under schedule: interleaved"
        yield Finding("policies.overlap.pipeline", text, "async", hint, note=True)


_MESH = ("parallel", "cluster.devices")

RULES = (
    Rule(bucket_choices_are_used, ("policies", "parallel.zero", "workload.model")),
    Rule(fsdp_choices_are_used, ("policies.fsdp", "parallel.zero")),
    Rule(reshard_divides, ("policies.fsdp", *_MESH)),
    Rule(messages_are_posted, ("policies", "parallel.pipeline", "workload.model")),
)
