"""Rules of what communication takes: multiprocessors, queues, priorities, algorithms."""

from __future__ import annotations

from collections.abc import Iterator

from desim.spec.resources import LinkWeights
from desim.spec.rules.finding import Finding, Rule, data_size
from desim.spec.scenario import Scenario
from desim.spec.workload import Transformer

_CHANNELS = ("nvlink_sms", "network_sms", "message_sms", "nvls_sms")


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


def weights_are_used(scenario: Scenario) -> Iterator[Finding]:
    """Weights of groups without communication are named, not refused."""
    weights, parallel = scenario.policies.resources.link_weights, scenario.parallel
    sizes = {
        "tp": ("parallel.tensor", parallel.tensor),
        "cp": ("parallel.context", parallel.context),
        "dp": ("the number of ranks that share gradients", _gradient_ranks(scenario)),
        "pp": ("parallel.pipeline", parallel.pipeline),
    }
    for group, (what, size) in sizes.items():
        weight = getattr(weights, group)
        if weight != getattr(LinkWeights(), group) and size == 1:
            text = f"has no effect: {what} is 1"
            yield Finding(f"policies.resources.link_weights.{group}", text, weight, note=True)
    model = scenario.workload.model
    if weights.ep != LinkWeights().ep and isinstance(model, Transformer):
        reason = f"{model.name} has no experts" if model.moe is None else ""
        if reason or parallel.expert == 1:
            text = f"has no effect: {reason or 'parallel.expert is 1, every rank has all experts'}"
            yield Finding("policies.resources.link_weights.ep", text, weights.ep, note=True)


def _gradient_ranks(scenario: Scenario) -> int | None:
    """Ranks that reduce gradients together: of experts those that hold the same ones, if more."""
    parallel, data = scenario.parallel, data_size(scenario)
    if data is None:
        return None
    ranks, tensor = data * parallel.context, parallel.expert_tensor or parallel.tensor
    return max(ranks, ranks * parallel.tensor // (tensor * parallel.expert))


RULES = (
    Rule(multiprocessors_exist, ("policies.resources", "cluster.system")),
    Rule(queues_are_used, ("policies", "parallel.zero", "parallel.pipeline", "kernels")),
    Rule(pinned_groups_can_reduce, ("policies.collectives", "cluster.system.nvls")),
    Rule(
        weights_are_used,
        ("policies.resources", "parallel", "cluster.devices", "workload.model"),
    ),
)
