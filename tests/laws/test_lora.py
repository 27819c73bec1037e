"""Law: frozen weights have no gradients, adapters have everything; the rest stays as it was."""

from __future__ import annotations

from typing import Any

import pytest

from desim.models.count import adapter_parameters, flops_per_sample, model_flops_per_sample
from desim.models.op import Op
from desim.plan.build import build_plan, layers_of
from desim.spec.scenario import Scenario
from tests.jobs import job, play
from tests.laws.test_folding import check

RANK = 8


def adapted(targets: tuple[str, ...] = ("qkv", "down"), **changes: Any) -> Scenario:
    lora = {"rank": RANK, "targets": list(targets)}
    return job(workload__task="lora", workload__lora=lora, **changes)


def products(scenario: Scenario) -> list[Op]:
    """GEMMs of one micro-batch on one rank."""
    return [
        op
        for layer in layers_of(scenario)
        for module in layer.modules
        for op in (*module.forward, *module.dgrad, *module.wgrad)
        if op.kind == "gemm"
    ]


def test_work_is_that_of_the_model_without_its_weight_gradients() -> None:
    """GEMM FLOPs: two of three products of frozen weights, all of the adapters' (6 P)."""
    base, lora = job(), adapted()
    workload = lora.workload
    tokens = workload.micro_batch * workload.sequence_length
    forward = sum(op.flops for op in products(base) if op.variant == "forward")
    adapters = adapter_parameters(workload.model, workload.adapters)  # type: ignore[arg-type]
    expected = 2 * forward + 6 * tokens * adapters
    assert sum(op.flops for op in products(lora)) == pytest.approx(expected, rel=1e-12)
    assert adapters == 4 * RANK * (1024 + 3072 + 4096 + 1024)
    whole = model_flops_per_sample(workload.model, workload.sequence_length)
    assert flops_per_sample(workload) == pytest.approx(
        whole + workload.sequence_length * (6 * adapters - forward / tokens)
    )


@pytest.mark.parametrize("tensor", [1, 2])
def test_only_adapters_are_trained(tensor: int) -> None:
    """Cut adapters have one whole factor on every rank."""
    layers = layers_of(adapted(parallel__tensor=tensor))
    base = layers_of(job(parallel__tensor=tensor))
    assert sum(layer.parameters - layer.trained for layer in layers) == sum(
        layer.parameters for layer in base
    )
    qkv = 1024 + 3072 // tensor
    down = 4096 // tensor + 1024
    assert sum(layer.trained for layer in layers) == 4 * RANK * (qkv + down)


def test_equal_blocks_stay_one_object() -> None:
    layers = layers_of(adapted())
    assert len({id(layer) for layer in layers[1:-1]}) == 1


def test_memory_of_states() -> None:
    """2 B for a frozen parameter; 2 + 4 and 12/d for a trained one."""
    scenario = adapted()
    memory = play(scenario).record.memory[0]
    held = {name: float(memory.by_owner[row].max()) for row, name in enumerate(memory.owners)}
    layers = layers_of(scenario)
    trained = sum(layer.trained for layer in layers)
    assert held["parameters"] == 2 * sum(layer.parameters for layer in layers)
    assert held["gradients"] == 4 * trained
    assert held["optimizer"] == 12 * trained / 8


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_only_trained_gradients_are_reduced(zero: int) -> None:
    plan = build_plan(adapted(parallel__zero=zero))
    trained = sum(layer.trained for layer in plan.context.layers)
    reduced = [
        comm
        for comm in plan.context.tables.comms
        if comm.collective in ("all_reduce", "reduce_scatter") and comm.size_bytes > 4
    ]
    share = 4 if zero == 3 else 1  # one block under FSDP, whose collectives are equal
    assert sum(comm.size_bytes for comm in reduced) == 4 * trained / share


@pytest.mark.parametrize(
    "changes",
    [
        {"parallel": {"tensor": 2, "pipeline": 2}},
        {"parallel": {"tensor": 4, "sequence": False}},
        {"parallel": {"zero": 3}, "policies": {"recompute": "full"}},
        {"parallel": {"tensor": 2}, "workload__precision": {"recipe": "delayed"}},
    ],
)
def test_folded_is_unfolded(changes: dict[str, Any]) -> None:
    check(adapted(("qkv", "projection", "up", "down"), **changes))


def test_a_recipe_converts_what_frozen_layers_read() -> None:
    """Input and gradient once each, one copy; weights as ever; no fp8 product makes a gradient."""
    plain, low = adapted(), adapted(workload__precision={"recipe": "delayed"})
    added = [
        op
        for layer in layers_of(low)
        for module in layer.modules
        for op in (*module.forward, *module.dgrad, *module.wgrad)
        if op.kind == "cast"
    ]
    tokens = 1024
    inputs, outputs = 4 * 1024 + 3 * 1024, 3072 + 4096 + 2 * 1024
    expected = 4 * tokens * 3 * (inputs + outputs)
    assert sum(op.read_bytes + op.write_bytes for op in added) == expected
    assert len(products(plain)) == len(products(low))
    assert all(op.dtype == "bf16" for op in products(low) if op.variant == "wgrad")
