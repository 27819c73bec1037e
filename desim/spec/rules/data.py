"""Rules of data parallelism, of messages between stages and of what communication takes."""

from __future__ import annotations

from collections.abc import Iterator

from desim.spec.policy import Fsdp, Policies
from desim.spec.rules.finding import Finding, Rule, data_size, nearest_divisors
from desim.spec.scenario import Scenario
from desim.spec.workload import Dlrm

_CHANNELS = ("nvlink_sms", "network_sms", "message_sms", "nvls_sms")


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


def multiprocessors_exist(scenario: Scenario) -> Iterator[Finding]:
    """Communication cannot hold more of a device than there is, and fewer channels cost."""
    resources, system = scenario.policies.resources, scenario.cluster.system
    own = system.device.communication
    fewer = False
    for name in _CHANNELS:
        chosen = getattr(resources, name)
        if chosen is None:
            continue
        path = f"policies.resources.{name}"
        if chosen > system.device.sms:
            have = f"the multiprocessors of {system.device.name}"
            rule = f"cannot be more than {have}: {chosen} > {system.device.sms}"
            yield Finding(path, rule, chosen, f"its own constant: {getattr(own, name)}")
        elif name == "nvls_sms" and not system.nvls:
            text = f"has no effect: {system.name} has no in-switch reduction"
            yield Finding(path, text, chosen, note=True)
        fewer |= name in _CHANNELS[:2] and chosen < getattr(own, name)
    if fewer and own.channel_bytes_per_s is None:
        text = (
            f"{system.device.name} has no `communication.channel`: collectives with fewer "
            "multiprocessors are taken to be as fast"
        )
        yield Finding("policies.resources", text, note=True)


def queues_are_used(scenario: Scenario) -> Iterator[Finding]:
    """One queue holds back what FSDP and early receives need at once, and orders no graph."""
    if scenario.policies.resources.max_connections > 1:
        return
    path = "policies.resources.max_connections"
    if scenario.parallel.zero == 3:
        text = (
            "FSDP's prefetch needs more than one hardware queue: a gather waits for every kernel "
            "issued before it to start"
        )
        yield Finding(path, text, 1, "Megatron-LM refuses 1 with its FSDP", note=True)
    if scenario.kernels.cuda_graphs:
        rule = "a captured pass is launched at once: hardware queues do not order what is in it"
        yield Finding(path, rule, 1, "set max_connections: 8, or cuda_graphs: false")
    overlap = scenario.policies.overlap
    if overlap.pipeline == "async" and overlap.receive_ahead > 1 and scenario.parallel.pipeline > 1:
        rule = (
            f"receives are posted {overlap.receive_ahead} passes ahead: in one hardware queue a "
            "pass waits for the message before the last one posted, which may depend on the pass"
        )
        yield Finding(path, rule, 1, "set overlap.receive_ahead: 1, or max_connections: 8")


def pinned_groups_can_reduce(scenario: Scenario) -> Iterator[Finding]:
    """In-switch collectives of single groups need a switch that reduces, too."""
    system = scenario.cluster.system
    if system.nvls:
        return
    for group, pins in scenario.policies.collectives.groups.items():
        for name in ("all_reduce", "all_gather", "reduce_scatter"):
            if getattr(pins, name) == "nvls":
                rule = f"{system.name} has no in-switch reduction (system.nvls: false)"
                path = f"policies.collectives.groups.{group}.{name}"
                yield Finding(path, rule, "nvls", "choose auto, ring, tree or hierarchical")


_MESH = ("parallel", "cluster.devices")

RULES = (
    Rule(bucket_choices_are_used, ("policies", "parallel.zero", "workload.model")),
    Rule(fsdp_choices_are_used, ("policies.fsdp", "parallel.zero")),
    Rule(reshard_divides, ("policies.fsdp", *_MESH)),
    Rule(messages_are_posted, ("policies", "parallel.pipeline", "workload.model")),
    Rule(multiprocessors_exist, ("policies.resources", "cluster.system")),
    Rule(queues_are_used, ("policies", "parallel.zero", "parallel.pipeline", "kernels")),
    Rule(pinned_groups_can_reduce, ("policies.collectives", "cluster.system.nvls")),
)
