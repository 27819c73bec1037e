"""Rules of context parallelism: two levels, and who computes what under a causal mask."""

from __future__ import annotations

from collections.abc import Iterator
from math import gcd

from desim.spec.context import heads_inside, held_kv_heads
from desim.spec.rules.finding import Finding, Rule, nearest_divisors
from desim.spec.scenario import Scenario
from desim.spec.workload import Transformer

_READS = (
    "parallel.tensor", "parallel.context", "policies.context", "policies.context_inside",
    "workload.model", "cluster.system",
)  # fmt: skip


def levels_fit(scenario: Scenario) -> Iterator[Finding]:
    """Heads are exchanged in equal parts of the context group, of which each rank gets some.

    Megatron-LM: the product of the hierarchical sizes is the context-parallel size.
    """
    parallel, policies = scenario.parallel, scenario.policies
    inside, path = policies.context_inside, "policies.context_inside"
    if policies.context != "two_level" or parallel.context == 1:
        if inside is not None:
            text = f"has no effect under context: {policies.context}"
            if policies.context == "two_level":
                text = "has no effect: parallel.context is 1, no sequence is shared"
            yield Finding(path, text, inside, "context: two_level uses it", note=True)
        return
    held = held_kv_heads(scenario)
    if inside is None:
        return
    fits = gcd(parallel.context, held)
    if parallel.context % inside:
        rest = parallel.context % inside
        rule = f"must divide context: {parallel.context} / {inside} leaves {rest}"
        yield Finding(path, rule, inside, f"nearest: {nearest_divisors(fits, inside)}")
    elif held % inside:
        rule = (
            f"exchanges heads: must divide the {held} kv_heads of a tensor rank: "
            f"{held} / {inside} leaves {held % inside}"
        )
        yield Finding(path, rule, inside, f"nearest: {nearest_divisors(fits, inside)}")


def levels_are_two(scenario: Scenario) -> Iterator[Finding]:
    """One level of two that holds a single rank, or all of them, is said."""
    parallel, policies = scenario.parallel, scenario.policies
    inside, held = heads_inside(scenario), held_kv_heads(scenario)
    if policies.context != "two_level" or parallel.context == 1:
        return
    if parallel.context % inside or held % inside:
        return
    if inside == 1 or inside == parallel.context:
        same = "ring" if inside == 1 else "all_to_all"
        text = f"has one level: {inside} of {parallel.context} ranks exchange heads, as {same} does"
        yield Finding("policies.context", text, "two_level", note=True)
    domain = scenario.cluster.system.nvlink_domain
    if parallel.tensor * inside > domain and parallel.order.startswith("tp-cp"):
        text = (
            f"exchanges heads beyond an NVLink domain: {inside} context x {parallel.tensor} "
            f"tensor ranks = {inside * parallel.tensor} > {domain}"
        )
        yield Finding("policies.context_inside", text, inside, note=True)


def balance_is_used(scenario: Scenario) -> Iterator[Finding]:
    """Only causal work of fused kernels on shared sequences can be unequal."""
    policies, model = scenario.policies, scenario.workload.model
    if policies.context_balance == "zigzag":
        return
    reason = ""
    if scenario.parallel.context == 1 or not isinstance(model, Transformer):
        reason = "parallel.context is 1, no sequence is shared"
    elif not model.causal:
        reason = "without a causal mask every token sees as much"
    elif policies.context == "all_to_all":
        reason = "every rank has all tokens of its heads"
    elif scenario.kernels.attention == "unfused":
        reason = "unfused attention computes the whole square of scores"
    if reason:
        text = f"has no effect: {reason}"
        yield Finding("policies.context_balance", text, policies.context_balance, note=True)


RULES = (
    Rule(levels_fit, _READS),
    Rule(levels_are_two, (*_READS, "parallel.order")),
    Rule(
        balance_is_used,
        (*_READS, "policies.context_balance", "kernels.attention"),
    ),
)
