"""Rules of the policies: sharding, kernels, collectives and disturbances."""

from __future__ import annotations

from collections.abc import Iterator

from desim.spec.policy import Policies
from desim.spec.rules.finding import (
    Finding,
    Rule,
    divisors,
    micro_batches,
    num_chunks,
)
from desim.spec.scenario import Jitter, Scenario, SlowDevice
from desim.spec.workload import Dlrm, Transformer

#: A run that takes at least so many times as long is said to do so.
_MANY = 8
#: What `plan.load` adds the bytes to.
NOT_IN_A_PIPELINE = "is not played with pipeline > 1"


def policies_have_effect(scenario: Scenario) -> Iterator[Finding]:
    """Choices that the job has no use for are named, not refused."""
    policies, kernels, overlap = scenario.policies, scenario.kernels, scenario.policies.overlap
    usual = type(policies)()
    ignored: list[tuple[str, object]] = []
    if isinstance(scenario.workload.model, Dlrm):
        reason = "a recommendation model does not use it"
        ignored = [
            ("policies.schedule", policies.schedule != usual.schedule),
            ("policies.recompute", policies.recompute != usual.recompute),
            ("policies.overlap.grad_reduce", overlap.grad_reduce == "none"),
            ("policies.overlap.param_gather", overlap.param_gather != usual.overlap.param_gather),
            ("kernels.cuda_graphs", kernels.cuda_graphs),
        ]
    elif scenario.parallel.zero == 3:
        reason = "parallel.zero: 3 gathers and reduces by layer (policies.fsdp)"
        ignored = [
            (f"policies.overlap.{name}", getattr(overlap, name) != getattr(usual.overlap, name))
            for name in ("grad_reduce", "param_gather")
        ]
    for path, chosen in ignored:
        if chosen:
            yield Finding(path, f"has no effect: {reason}", note=True)
    only_core = policies.recompute_modules == ("core_attention",)
    if policies.recompute == "selective" and only_core and kernels.attention != "unfused":
        text = (
            "selective recomputation repeats core attention, of which a fused backend keeps "
            "nothing large: it takes time and frees next to no memory"
        )
        hint = "recompute: none is faster, full or recompute_modules: [norm, activation] frees more"
        yield Finding("policies.recompute", text, "selective", hint, note=True)
    if policies.bucket_copies and policies.overlap.grad_reduce != "none":
        text = "has no effect: buckets that are reduced beside compute are played in place"
        yield Finding("policies.bucket_copies", text, value=True, note=True)
    if policies.zero_partition != usual.zero_partition and scenario.parallel.zero != 1:
        text = "has no effect: only parallel.zero: 1 can give out whole tensors"
        yield Finding("policies.zero_partition", text, policies.zero_partition, note=True)
    if policies.sync == "grad_norm" and not policies.gradient_clipping:
        text = "has no effect without gradient_clipping: no norm is read back"
        hint = "sync: step lets the host wait once a step"
        yield Finding("policies.sync", text, "grad_norm", hint, note=True)


def kernels_have_effect(scenario: Scenario) -> Iterator[Finding]:
    """Kernels that are chosen but never launched are named, not refused."""
    kernels = scenario.kernels
    if kernels.cross_entropy == "unfused" and kernels.fusion != "te":
        text = f"has no effect: fusion: {kernels.fusion} has a chain of its own"
        yield Finding("kernels.cross_entropy", text, "unfused", note=True)
    if kernels.cross_entropy == kernels.fusion:
        text = "has no effect: it is the chain that `fusion` names"
        yield Finding("kernels.cross_entropy", text, kernels.cross_entropy, note=True)
    if kernels.accumulation != "auto":
        usual = kernels.model_copy(update={"accumulation": "auto"})
        if usual.adds_in_products == kernels.adds_in_products:
            text = f"has no effect: fusion: {kernels.fusion} does so by itself"
            yield Finding("kernels.accumulation", text, kernels.accumulation, note=True)
    model = scenario.workload.model
    if "gate_up" in kernels.apart and not getattr(model, "gated", False):
        text = "has no effect: the model's MLP has no gate"
        yield Finding("kernels.apart", text, "gate_up", note=True)
    if kernels.repeat_kv and getattr(model, "kv_heads", 0) == getattr(model, "heads", 0):
        text = "has no effect: every query head has a key of its own"
        yield Finding("kernels.repeat_kv", text, "true", note=True)
    positions = getattr(model, "position", None)
    if kernels.rotary == "fused" and positions != "rope":
        text = "has no effect: the model has no rotary positions"
        yield Finding("kernels.rotary", text, "fused", note=True)


def recompute_choices_are_used(scenario: Scenario) -> Iterator[Finding]:
    """Modules belong to selective recomputation, a number of layers to any."""
    policies, model = scenario.policies, scenario.workload.model
    chosen = set(policies.recompute_modules)
    if policies.recompute != "selective" and chosen != {"core_attention"}:
        text = f"has no effect under recompute: {policies.recompute}"
        hint = "recompute: selective uses it"
        names = ", ".join(policies.recompute_modules)
        yield Finding("policies.recompute_modules", text, f"[{names}]", hint, note=True)
    if policies.recompute == "none" and policies.recompute_layers is not None:
        text = "has no effect under recompute: none"
        layers = policies.recompute_layers
        yield Finding("policies.recompute_layers", text, layers, "set recompute: full", note=True)
    if policies.recompute != "selective" or not isinstance(model, Transformer):
        return
    missing = [("mla_up", "mla")] + [(name, "moe") for name in ("experts", "expert_activation")]
    for name, part in missing:
        if name in chosen and getattr(model, part, None) is None:
            text = f"has no effect: the model has no {part}"
            yield Finding("policies.recompute_modules", text, name, note=True)


def recomputed_layers_exist(scenario: Scenario) -> Iterator[Finding]:
    """A number of layers to recompute beyond those of a stage, or virtual stage, means all."""
    policies, model = scenario.policies, scenario.workload.model
    layers = policies.recompute_layers
    if layers is None or policies.recompute == "none" or not isinstance(model, Transformer):
        return
    chunks = num_chunks(scenario)
    most = max(scenario.parallel.stage_layers or [-(-model.layers // chunks)])
    if layers > most:
        text = f"is taken as {most}: no {'virtual ' if chunks > scenario.parallel.pipeline else ''}"
        yield Finding("policies.recompute_layers", f"{text}stage has more layers", note=True)


def recomputation_fills_bubbles(scenario: Scenario) -> Iterator[Finding]:
    """Only a stage that recomputes and waits for a gradient can do the one in the other."""
    policies, usual = scenario.policies, Policies()
    reason = ""
    if isinstance(scenario.workload.model, Dlrm):
        reason = "a recommendation model does not use it"
    elif policies.recompute == "none":
        reason = "recompute: none runs nothing again"
    elif scenario.parallel.pipeline == 1:
        reason = "without a pipeline no stage waits for a gradient"
    chosen = policies.recompute_in
    if chosen != usual.recompute_in and reason:
        yield Finding("policies.recompute_in", f"has no effect: {reason}", chosen, note=True)
    ahead, path = policies.recompute_ahead, "policies.recompute_ahead"
    if ahead != usual.recompute_ahead and (reason or chosen == usual.recompute_in):
        text = (
            f"has no effect: {reason}" if reason else f"has no effect under recompute_in: {chosen}"
        )
        yield Finding(path, text, ahead, "recompute_in: bubble uses it", note=True)
    elif not reason and chosen == "bubble":
        most = _most_recomputed(scenario)
        if ahead > most:
            yield Finding(path, f"is taken as {most}: no chunk recomputes more", ahead, note=True)


def _most_recomputed(scenario: Scenario) -> int:
    """Blocks of the chunk (stage or virtual stage) that recomputes most of them."""
    model, chosen = scenario.workload.model, scenario.policies.recompute_layers
    layers = model.layers if isinstance(model, Transformer) else 0
    most = max(scenario.parallel.stage_layers or [-(-layers // num_chunks(scenario))])
    return min(most, chosen or most)


def chunks_need_sequence_parallelism(scenario: Scenario) -> Iterator[Finding]:
    """Chunked overlap cuts all-gathers and reduce-scatters, which sequence parallelism makes."""
    parallel = scenario.parallel
    if scenario.policies.overlap.tensor != "chunked":
        return
    path = "policies.overlap.tensor"
    if parallel.tensor == 1:
        text = "has no effect: parallel.tensor is 1, there is nothing to cut"
        yield Finding(path, text, "chunked", note=True)
    elif not parallel.sequence:
        rule = (
            "chunked overlap cuts all-gathers and reduce-scatters; without sequence parallelism"
            " there are none"
        )
        hint = "set parallel.sequence: true, or overlap.tensor: megatron"
        yield Finding(path, rule, "chunked", hint)


def chunks_fit(scenario: Scenario) -> Iterator[Finding]:
    """A rank begins with its own part of the rows, and every chunk has whole rows."""
    overlap, parallel, workload = scenario.policies.overlap, scenario.parallel, scenario.workload
    chunks, path = overlap.tensor_chunks, "policies.overlap.tensor_chunks"
    if overlap.tensor != "chunked":
        text = f"has no effect under tensor: {overlap.tensor}"
        if chunks is not None:
            yield Finding(path, text, chunks, "tensor: chunked uses it", note=True)
        if overlap.tensor_exchange != type(overlap)().tensor_exchange:
            where = "policies.overlap.tensor_exchange"
            hint = "tensor: chunked uses it"
            yield Finding(where, text, overlap.tensor_exchange, hint, note=True)
        return
    if chunks is None or parallel.tensor == 1:
        return
    rows = workload.micro_batch * workload.sequence_length // parallel.context
    fits = [count for count in divisors(rows) if count >= parallel.tensor]
    if chunks < parallel.tensor:
        rule = (
            "must be at least tensor: the first GEMM has a rank's own rows only, "
            f"1/{parallel.tensor} of them, not 1/{chunks}"
        )
        yield Finding(path, rule, chunks, f"nearest: {fits[0]}" if fits else "")
    elif rows % chunks:
        rule = f"must divide the rows of a GEMM: {rows} / {chunks} leaves {rows % chunks}"
        below = [count for count in fits if count < chunks][-1:]
        near = [*below, *[count for count in fits if count > chunks][:1]]
        yield Finding(path, rule, chunks, f"nearest: {' or '.join(map(str, near))}")


def graphs_can_be_captured(scenario: Scenario) -> Iterator[Finding]:
    """Inside a captured pass the host cannot wait, as FSDP's limit of gathers makes it."""
    if scenario.kernels.cuda_graphs and scenario.parallel.zero == 3:
        rule = (
            "a captured pass cannot hold the host back, which parallel.zero: 3 does to keep "
            f"{scenario.policies.fsdp.gathers_in_flight} gathers in flight"
        )
        yield Finding("kernels.cuda_graphs", rule, True, "set cuda_graphs: false or zero: 1")


def sharding_fits_pipeline(scenario: Scenario) -> Iterator[Finding]:
    """Sharded gradients or parameters would be moved once for every micro-batch of a pipeline."""
    parallel = scenario.parallel
    if parallel.pipeline == 1 or parallel.zero < 2:
        return
    count = micro_batches(scenario)
    times = f"{count} times" if count else "once per micro-batch"
    moved = "gradients reduce-scattered" if parallel.zero == 2 else "parameters gathered"
    rule = (
        f"zero: {parallel.zero} {NOT_IN_A_PIPELINE}: every stage would have its "
        f"{moved} for each micro-batch ({times} a step instead of once)"
    )
    yield Finding("parallel.zero", rule, parallel.zero, "set zero: 1, or pipeline: 1")


def attention_exists(scenario: Scenario) -> Iterator[Finding]:
    """A fused attention backend needs kernels for the device."""
    device, backend = scenario.cluster.system.device, scenario.kernels.attention
    if not isinstance(scenario.workload.model, Transformer):
        return
    if backend != "unfused" and backend not in device.kernels.attention:
        rule = f"this backend does not exist on {device.name}"
        known = ", ".join([*device.kernels.attention, "unfused"])
        yield Finding("kernels.attention", rule, backend, f"choose from {known}")


def dtype_exists(scenario: Scenario) -> Iterator[Finding]:
    """The compute format needs math units and an efficiency on the device."""
    device, dtype = scenario.cluster.system.device, scenario.workload.precision.compute
    known = [name for name in device.peak_flops_per_s if name in device.kernels.gemm_efficiency]
    if dtype not in known:
        rule = f"{device.name} does not compute in this format"
        hint = f"choose from {', '.join(known)}"
        yield Finding("workload.precision.compute", rule, dtype, hint)


def nvls_exists(scenario: Scenario) -> Iterator[Finding]:
    """In-switch collectives need a switch that reduces."""
    system, pinned = scenario.cluster.system, scenario.policies.collectives
    if system.nvls:
        return
    for name in ("all_reduce", "all_gather", "reduce_scatter"):
        if getattr(pinned, name) == "nvls":
            rule = f"{system.name} has no in-switch reduction (system.nvls: false)"
            hint = "choose auto, ring, tree or hierarchical"
            yield Finding(f"policies.collectives.{name}", rule, "nvls", hint)


def disturbed_devices_exist(scenario: Scenario) -> Iterator[Finding]:
    """A slow device is one of the job's."""
    devices = scenario.cluster.devices
    for place, disturbance in enumerate(scenario.disturb):
        if isinstance(disturbance, SlowDevice) and disturbance.device >= devices:
            rule = f"devices are numbered 0 to {devices - 1}"
            path = f"disturb.{place}.device"
            yield Finding(path, rule, disturbance.device, f"nearest: {devices - 1}")


def jitter_plays_all_devices(scenario: Scenario) -> Iterator[Finding]:
    """Ranks with random times of their own cannot be folded, which takes time."""
    devices, stages = scenario.cluster.devices, scenario.parallel.pipeline
    if scenario.run.fold is False or devices // stages < _MANY:
        return
    for place, disturbance in enumerate(scenario.disturb):
        if isinstance(disturbance, Jitter):
            text = (
                f"plays all {devices} devices, each with times of its own, not one of each kind, "
                f"which takes about {devices} / {stages} stages = {devices // stages} times as long"
                " or longer"
            )
            yield Finding(f"disturb.{place}.jitter", text, disturbance.jitter, note=True)


def nvlink_domain_fits(scenario: Scenario) -> Iterator[Finding]:
    """NVLink joins whole nodes or even parts of one, by links that the device has."""
    system = scenario.cluster.system
    domain, per_node = system.nvlink_domain, system.devices_per_node
    if max(domain, per_node) % min(domain, per_node):
        rule = f"must divide devices_per_node ({per_node}) or be a multiple of it"
        hint = f"nearest: {per_node}"
        yield Finding("cluster.system.nvlink_domain", rule, domain, hint)
    if domain > 1 and system.device.nvlink_bytes_per_s == 0:
        rule = f"{system.device.name} has no NVLink"
        yield Finding("cluster.system.nvlink_domain", rule, domain, "set nvlink_domain: 1")


def nics_fit(scenario: Scenario) -> Iterator[Finding]:
    """NICs are shared evenly by the devices of a node."""
    system = scenario.cluster.system
    nics, per_node = system.nics_per_node, system.devices_per_node
    if max(nics, per_node) % min(nics, per_node):
        rule = f"must divide devices_per_node ({per_node}) or be a multiple of it"
        yield Finding("cluster.system.nics_per_node", rule, nics, f"nearest: {per_node}")


RULES = (
    Rule(kernels_have_effect, ("kernels", "workload.model")),
    Rule(policies_have_effect, ("policies", "kernels", "parallel.zero", "workload.model")),
    Rule(recompute_choices_are_used, ("policies", "workload.model")),
    Rule(recomputed_layers_exist, ("policies", "workload.model", "parallel")),
    Rule(recomputation_fills_bubbles, ("policies", "workload.model", "parallel")),
    Rule(
        chunks_need_sequence_parallelism,
        ("policies.overlap.tensor", "parallel.tensor", "parallel.sequence"),
    ),
    Rule(graphs_can_be_captured, ("kernels.cuda_graphs", "parallel.zero", "policies.fsdp")),
    Rule(sharding_fits_pipeline, ("parallel.zero", "parallel.pipeline")),
    Rule(attention_exists, ("kernels.attention", "workload.model", "cluster.system.device")),
    Rule(dtype_exists, ("workload.precision.compute", "cluster.system.device")),
    Rule(nvls_exists, ("policies.collectives", "cluster.system.nvls")),
    Rule(disturbed_devices_exist, ("disturb", "cluster.devices")),
    Rule(jitter_plays_all_devices, ("disturb", "cluster", "parallel", "run.fold")),
    Rule(nvlink_domain_fits, ("cluster.system",)),
    Rule(nics_fit, ("cluster.system",)),
    Rule(
        chunks_fit,
        (
            "policies.overlap",
            "parallel.tensor",
            "parallel.context",
            "workload.micro_batch",
            "workload.sequence_length",
        ),
    ),
)
