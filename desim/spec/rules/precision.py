"""Rules of number formats: what the device computes in, and what a low-precision recipe needs."""

from __future__ import annotations

from collections.abc import Iterator

from desim.spec.rules.finding import Finding, Rule
from desim.spec.scenario import Scenario
from desim.spec.workload import Dlrm, Transformer

_PATH = "workload.precision.recipe"
_READS = (_PATH, "workload.precision.compute", "workload.model", "cluster.system.device")

#: recipe -> tokens and widths that a quantised operand needs multiples of: blocks of the scales,
#: else the 16 bytes of an fp8 GEMM's rows
_BLOCK = {
    "delayed": 16,
    "tensorwise": 16,
    "rowwise": 16,
    "blockwise": 128,
    "mxfp8": 32,
    "nvfp4": 16,
}


def recipe_fits_the_run(scenario: Scenario) -> Iterator[Finding]:
    """A recipe converts 16-bit tensors of a transformer, with kernels that the device has."""
    precision, device = scenario.workload.precision, scenario.cluster.system.device
    recipe = precision.recipe
    if recipe == "none":
        return
    if not isinstance(scenario.workload.model, Transformer):
        rule = "a recipe is for the linear layers of a transformer"
        yield Finding(_PATH, rule, recipe, "set recipe: none")
    if precision.compute not in ("bf16", "fp16"):
        rule = "a recipe converts from 16 bits: compute is the format of everything else"
        yield Finding("workload.precision.compute", rule, precision.compute, "set compute: bf16")
    dtype = "fp4" if recipe == "nvfp4" else "fp8"
    if dtype not in device.peak_flops_per_s:
        rule = f"{device.name} does not compute in {dtype}"
        yield Finding(_PATH, rule, recipe, "set recipe: none")
    elif recipe == "mxfp8" and not device.any_layout:
        rule = f"{device.name} has no block scales in its GEMMs (Blackwell and later)"
        yield Finding(_PATH, rule, recipe, "choose delayed, tensorwise or blockwise")


def recipe_has_software(scenario: Scenario) -> Iterator[Finding]:
    """Scales per row are torchao's; Transformer Engine has no such recipe."""
    recipe, fusion = scenario.workload.precision.recipe, scenario.kernels.fusion
    if recipe == "rowwise" and fusion == "te":
        rule = "Transformer Engine has no recipe with scales per row"
        yield Finding(_PATH, rule, recipe, "set kernels.fusion: compile (torchao), or tensorwise")


def recipe_blocks_fit(scenario: Scenario) -> Iterator[Finding]:
    """Operands are whole blocks of the scales along both axes."""
    workload, parallel = scenario.workload, scenario.parallel
    model, recipe = workload.model, workload.precision.recipe
    if recipe == "none" or not isinstance(model, Transformer):
        return
    block = _BLOCK[recipe]
    tokens = workload.micro_batch * workload.sequence_length // parallel.context
    if parallel.sequence:
        tokens //= parallel.tensor
    sizes = {
        "hidden": model.hidden,
        "ffn / tensor": model.ffn // parallel.tensor,
        "heads x head_dim / tensor": model.heads * model.head_dim // parallel.tensor,
        "tokens of a micro-batch on one rank": tokens,
    }
    for what, size in sizes.items():
        if size % block:
            rule = f"needs {what} in multiples of {block}: {size} leaves {size % block}"
            yield Finding(_PATH, rule, recipe, "set recipe: none, or change the cut")


def low_precision_settings_are_used(scenario: Scenario) -> Iterator[Finding]:
    """Settings of a recipe need one."""
    precision = scenario.workload.precision
    path = "workload.precision.low_precision_parameters"
    if precision.recipe == "none":
        for name in ("low_precision_parameters", "bf16_first_layers", "bf16_last_layers"):
            if value := getattr(precision, name):
                text = "has no effect without a recipe"
                yield Finding(f"workload.precision.{name}", text, value, note=True)
        return
    if not precision.low_precision_parameters:
        return
    fusion = scenario.kernels.fusion
    if precision.recipe == "rowwise" or (precision.recipe == "mxfp8" and fusion != "te"):
        rule = f"torchao gathers fp8 parameters with one scale per tensor, not {precision.recipe}"
        yield Finding(path, rule, value=True, hint="set it to false, or recipe: tensorwise")


def reduced_format_differs(scenario: Scenario) -> Iterator[Finding]:
    """Gradients are communicated only where there is more than one replica."""
    precision = scenario.workload.precision
    if isinstance(scenario.workload.model, Dlrm) and precision.reduce is not None:
        rule = "a recommendation model's gradients are reduced as they are kept"
        yield Finding("workload.precision.reduce", rule, precision.reduce, "set gradients")
    elif precision.reduce is not None and scenario.parallel.data == 1 == scenario.parallel.context:
        text = "has no effect: one replica reduces no gradients"
        yield Finding("workload.precision.reduce", text, precision.reduce, note=True)


def gradient_copies_exist(scenario: Scenario) -> Iterator[Finding]:
    """Gradients are kept twice only where they are accumulated in a wider format, and whole."""
    precision = scenario.workload.precision
    wider = precision.gradients == "fp32" and precision.compute in ("bf16", "fp16")
    if precision.gradient_copies and not (wider and scenario.parallel.zero < 2):
        text = "has no effect: only fp32 gradients of 16-bit parameters have copies, below zero 2"
        yield Finding("workload.precision.gradient_copies", text, value=True, note=True)


RULES = (
    Rule(
        gradient_copies_exist,
        (
            "workload.precision.gradient_copies",
            "workload.precision.gradients",
            "workload.precision.compute",
            "parallel.zero",
        ),
    ),
    Rule(recipe_fits_the_run, _READS),
    Rule(recipe_has_software, (_PATH, "kernels.fusion")),
    Rule(
        recipe_blocks_fit,
        (
            _PATH,
            "workload.model",
            "workload.micro_batch",
            "workload.sequence_length",
            "parallel.tensor",
            "parallel.context",
            "parallel.sequence",
        ),
    ),
    Rule(low_precision_settings_are_used, ("workload.precision", "kernels.fusion")),
    Rule(reduced_format_differs, ("workload.precision.reduce", "workload.model", "parallel")),
)
