"""Law: a recipe changes the GEMMs' format, and adds the bytes that quantising takes, no more."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from desim.models.op import Layer
from desim.models.recipe import recipe_of
from desim.models.shard import Shard
from desim.models.transformer import transformer_block
from desim.plan.build import build_plan
from desim.spec.policy import Kernels
from desim.spec.workload import Precision, Transformer
from tests.jobs import BASE, Played, job, play, with_system
from tests.laws.test_folding import check

MODEL = Transformer(**BASE["workload"]["model"])
TOKENS = 2 * 512
#: elements of the inputs, outputs and weights of qkv, projection, up and down
H, F, QKV = MODEL.hidden, MODEL.ffn, 3 * MODEL.hidden
INPUTS = TOKENS * (3 * H + F)
NORMED = TOKENS * 2 * H  # what norms hand to qkv and up
OUTPUTS = TOKENS * (QKV + F + 2 * H)
WEIGHTS = H * QKV + H * H + 2 * H * F


def block(
    recipe: str,
    fusion: str = "te",
    *,
    blackwell: bool = False,
    tensor: int = 1,
    chunked: bool = False,
) -> Layer:
    precision = Precision(recipe=recipe)  # type: ignore[arg-type]
    kernels = Kernels(fusion=fusion)  # type: ignore[arg-type]
    shard = Shard(
        tensor, True, 1, 1, 2, 512, precision, kernels, any_layout=blackwell, chunked=chunked
    )
    return transformer_block(MODEL, shard)


def cast_bytes(layer: Layer, *, weights: bool = False) -> float:
    ops = [
        op
        for m in layer.modules
        for op in (m.weight_casts if weights else (*m.forward, *m.dgrad, *m.wgrad))
        if op.kind == "cast"
    ]
    return sum(op.read_bytes + op.write_bytes for op in ops)


@pytest.mark.parametrize(
    ("recipe", "blackwell", "each", "normed", "weight"),
    [
        # cast and transpose in one kernel: 2 + 1 + 1; the norm writes fp8: transpose alone
        ("delayed", False, 4.0, 2.0, 4.0),
        ("delayed", True, 3.0, 0.0, 3.0),
        # the amax reads the tensor once more, but in the norm's kernel
        ("tensorwise", False, 6.0, 4.0, 6.0),
        ("tensorwise", True, 5.0, 3.0, 5.0),
        ("blockwise", False, 4 + 8 / 128, 4 + 8 / 128, 4 + 8 / 128),
        ("mxfp8", True, 4 + 2 / 32, 4 + 2 / 32, 4 + 2 / 32),
        # amax, rows, Hadamard columns; weights both at once
        ("nvfp4", True, 6 + 1 + 2 / 16, 6 + 1 + 2 / 16, 4 + 1 + 2 / 16),
    ],
)
def test_bytes_of_transformer_engine_casts(
    recipe: str, blackwell: bool, each: float, normed: float, weight: float
) -> None:
    layer = block(recipe, blackwell=blackwell)
    expected = (INPUTS - NORMED + OUTPUTS) * each + NORMED * normed
    assert cast_bytes(layer) == pytest.approx(expected, rel=1e-12)
    assert cast_bytes(layer, weights=True) == pytest.approx(WEIGHTS * weight, rel=1e-12)


def test_bytes_of_torchao_casts() -> None:
    """Compiled: input amax 2, cast 3, cast again 3; gradient 2 + 3 + 2; weight as the input."""
    layer = block("tensorwise", "compile")
    assert cast_bytes(layer) == pytest.approx(INPUTS * 8 + OUTPUTS * 7 + WEIGHTS * 8)
    assert cast_bytes(layer, weights=True) == 0
    # by rows, every one of six copies reads for its scales and again to convert
    by_row = block("rowwise", "compile")
    assert cast_bytes(by_row) == pytest.approx((INPUTS + OUTPUTS + WEIGHTS) * 10)
    assert cast_bytes(block("tensorwise", "eager")) > 3 * cast_bytes(layer)


def test_operands_that_are_gathered_in_16_bits_are_converted_whole() -> None:
    """torchao converts rows with scales of their own after the gather, which is not cut then."""
    layer = block("rowwise", "compile", tensor=2)
    inputs = TOKENS * (2 * H + (H + F) / 2)
    outputs = TOKENS * ((QKV + F) / 2 + 2 * H)
    assert cast_bytes(layer) == pytest.approx((inputs + outputs + WEIGHTS / 2) * 10)
    cut = block("rowwise", "compile", tensor=2, chunked=True)
    for whole, chunked in zip(layer.modules, cut.modules, strict=True):
        assert chunked.pre_forward == whole.pre_forward
        assert chunked.pre_backward == whole.pre_backward
        assert bool(chunked.forward_steps) == any(c.group == "tp" for c in whole.post_forward)


def test_only_linear_layers_are_converted() -> None:
    for m in block("delayed").modules:
        for op in (*m.forward, *m.dgrad, *m.wgrad):
            assert (op.dtype == "fp8") == (op.kind == "gemm")
    plain = block("none")
    assert not any(m.quantized for m in plain.modules)
    assert cast_bytes(plain) == 0


def test_saved_inputs_are_one_quantized_copy() -> None:
    saved = {r: sum(m.saved_bytes for m in block(r).modules) for r in ("none", "delayed")}
    assert saved["none"] - saved["delayed"] == INPUTS
    kept = {r: sum(m.saved_bytes for m in block(r, "compile").modules) for r in ("none", "rowwise")}
    assert kept["none"] == kept["rowwise"]


def test_gathered_inputs_travel_quantized() -> None:
    """One byte where there were two; MXFP8 gathers both copies of the gradient."""

    def sizes(recipe: str, blackwell: bool = False) -> tuple[float, float]:
        modules = block(recipe, blackwell=blackwell, tensor=2).modules
        forward = sum(c.size_bytes for m in modules for c in m.pre_forward)
        return forward, sum(c.size_bytes for m in modules for c in m.pre_backward)

    assert sizes("delayed") == tuple(size / 2 for size in sizes("none"))
    mxfp8, none = sizes("mxfp8", blackwell=True), sizes("none")
    assert mxfp8[0] == pytest.approx(none[0] * (1 + 1 / 32) / 2)
    assert mxfp8[1] == pytest.approx(none[1] * (1 + 1 / 32))


WIDE = {
    **BASE["workload"]["model"],
    "hidden": 8192,
    "heads": 64,
    "kv_heads": 64,
    "ffn": 32768,
    "layers": 2,
}


def test_compute_bound_gemms_speed_up_by_their_rates() -> None:
    """Peak times efficiency of fp8 over that of bf16, less its prologue; waves differ by 2 %."""
    times = {}
    for recipe in ("none", "delayed"):
        scenario = job(
            workload__model=WIDE,
            workload__sequence_length=8192,
            workload__precision={"recipe": recipe},
        )
        plan = build_plan(scenario)
        times[recipe] = {
            op.name: (op.shape[2], time.compute_s)
            for op, time in zip(plan.context.tables.ops, plan.kernel_times, strict=True)
            if op.kind == "gemm" and not op.name.startswith("lm_head")
        }
    device = scenario.cluster.system.device
    rate = {
        d: device.peak_flops_per_s[d] * device.kernels.gemm_efficiency[d] for d in ("bf16", "fp8")
    }
    prologue = {d: device.kernels.gemm_shape[d].prologue_k for d in ("bf16", "fp8")}
    assert len(times["none"]) == 12
    for name, (k, before) in times["none"].items():
        gain = rate["fp8"] / rate["bf16"] * (k + prologue["bf16"]) / (k + prologue["fp8"])
        assert before / times["delayed"][name][1] == pytest.approx(gain, rel=0.03)


def weight_casts(played: Played) -> int:
    spans = played.spans()
    names = [played.record.names[i] for i in spans.name]
    return sum(name.endswith("_weight_cast") for name in names)


def test_weights_are_quantized_once_a_step() -> None:
    """Four linear layers in each of four blocks, whatever the number of micro-batches."""
    for batch in (8, 32):
        played = play(job(workload__precision={"recipe": "delayed"}, workload__global_batch=batch))
        assert weight_casts(played) == 16
    sharded = job(
        workload__precision={"recipe": "delayed"}, workload__global_batch=32, parallel__zero=3
    )
    assert weight_casts(play(sharded)) == 4 * 16


def fixed(precision: dict[str, Any]) -> float:
    memory = play(job(workload__precision=precision)).record.memory[0]
    return float(memory.by_owner[memory.owners.index("parameters")].max())


def test_memory_of_weights() -> None:
    """Copies on top of 2 B a parameter: 2 B more; primary in fp8: the two copies alone."""
    quantized = 4 * WEIGHTS
    plain = fixed({})
    assert fixed({"recipe": "delayed"}) - plain == quantized * 2
    assert fixed({"recipe": "delayed", "low_precision_parameters": True}) == plain
    assert fixed({"recipe": "delayed", "bf16_first_layers": 1, "bf16_last_layers": 2}) == (
        plain + quantized / 4 * 2
    )


def sizes(name: str, precision: dict[str, Any], **changes: Any) -> float:
    plan = build_plan(job(workload__precision=precision, **changes))
    tables, program = plan.context.tables, plan.programs[0]
    first, last = program.cut_tasks[-2:]
    rows = np.flatnonzero(program.name[first:last] == tables.name(name)) + first
    comms = list(tables.comms)
    return sum(comms[program.comm[row]].size_bytes for row in rows)


@pytest.mark.parametrize("zero", [1, 3])
def test_parameters_are_gathered_in_low_precision(zero: int) -> None:
    """One byte less for each parameter of a linear layer, and each of its gathers."""
    fusion = {1: "te", 3: "compile"}[zero]
    changes = {"parallel__zero": zero, "kernels": {"fusion": fusion}}
    wide = sizes("param gather", {"recipe": "tensorwise"}, **changes)
    low = {"recipe": "tensorwise", "low_precision_parameters": True}
    gathers = 1 if zero == 1 else 2
    assert wide - sizes("param gather", low, **changes) == 4 * WEIGHTS * gathers
    assert wide == sizes("param gather", {}, **changes)


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_gradients_are_reduced_in_their_own_format(zero: int) -> None:
    """Half the bytes, and a cast that reads 4 and writes 2 B per gradient.

    FSDP converts what the backward pass makes, which is bf16: only where it reduces in fp32.
    """
    whole = sizes("grad reduce", {}, parallel__zero=zero)
    half = {"reduce": "bf16"}
    assert sizes("grad reduce", half, parallel__zero=zero) == whole / 2
    plan = build_plan(job(workload__precision=half, parallel__zero=zero))
    ops = [op for op in plan.context.tables.ops if op.name == "grad_cast"]
    assert sum(op.read_bytes for op in ops) > 0
    assert all(op.read_bytes in (op.write_bytes * 2, op.write_bytes / 2) for op in ops)
    same = build_plan(job(workload__precision={"reduce": "fp32"}, parallel__zero=zero))
    casts = [op for op in same.context.tables.ops if op.name == "grad_cast"]
    assert bool(casts) == (zero == 3)
    assert all(op.write_bytes == op.read_bytes * 2 for op in casts)


@pytest.mark.parametrize(
    ("recipe", "fusion", "zero", "parallel"),
    [
        ("delayed", "te", 1, {"tensor": 2, "pipeline": 2}),
        ("tensorwise", "te", 2, {"tensor": 2}),
        ("tensorwise", "compile", 3, {}),
        ("delayed", "te", 3, {"tensor": 4}),
    ],
)
def test_folded_is_unfolded(recipe: str, fusion: str, zero: int, parallel: dict[str, int]) -> None:
    precision = {"recipe": recipe, "low_precision_parameters": True, "reduce": "bf16"}
    check(
        job(
            workload__precision=precision,
            parallel={**parallel, "zero": zero},
            kernels={"fusion": fusion},
        )
    )


def test_software_of_a_recipe() -> None:
    """Delayed, block-wise and NVFP4 scales are Transformer Engine's under any fusion level."""
    for name, engine in (("delayed", True), ("tensorwise", False), ("nvfp4", True)):
        precision = Precision(recipe=name)  # type: ignore[arg-type]
        recipe = recipe_of(precision, "eager", any_layout=True)
        assert recipe is not None
        assert recipe.engine is engine


def test_amax_and_gradients_keep_the_order_of_their_communicators() -> None:
    """A slow rank reaches its amax once the first bucket is reduced, the others long before.

    Gradients and amax values of the same ranks take turns by program order only: had they one
    communicator on two lanes, some would meet for a bucket where others bring amax values.
    """
    scenario = job(
        workload__model={**BASE["workload"]["model"], "layers": 6},
        workload__global_batch=16,
        workload__precision={"recipe": "delayed", "low_precision_parameters": True},
        cluster={"system": "gb200_nvl72", "devices": 32},
        parallel={
            "tensor": 2,
            "context": 2,
            "pipeline": 2,
            "virtual_stages": 2,
            "stage_layers": [1, 2, 2, 1],
            "sequence": True,
            "zero": 1,
        },
        policies={
            "schedule": "interleaved",
            "bucket": "4 MB",
            "overlap": {
                "grad_reduce": "bucketed",
                "param_gather": "prefetch",
                "tensor": "chunked",
                "pipeline": "async",
            },
        },
        kernels={"fusion": "te"},
        disturb=[{"device": 5, "compute": 0.5}],
    )
    folded = check(with_system(scenario, nvlink_domain=12))
    amax, buckets = folded.rows(name="amax"), folded.rows(name="grad reduce")
    spans = folded.spans()
    assert any(
        spans.start_ps[a] < spans.end_ps[b] and spans.start_ps[b] < spans.end_ps[a]
        for a in amax
        for b in buckets
    )


def test_without_the_hadamard_transform_both_copies_come_from_one_reading() -> None:
    """NVFP4: amax and cast read 2 bytes each and write two copies of 1/2 + 1/16 byte."""
    precision = Precision(recipe="nvfp4", hadamard=False)
    shard = Shard(1, True, 1, 1, 2, 512, precision, Kernels(fusion="te"), any_layout=True)
    layer = transformer_block(MODEL, shard)
    assert cast_bytes(layer) == pytest.approx((INPUTS + OUTPUTS) * (2 + 2 + 1 + 2 / 16))
    assert cast_bytes(layer) < cast_bytes(block("nvfp4", blackwell=True))
