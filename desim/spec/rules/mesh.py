"""Rules of the mesh: devices, nodes, batch and the order of the axes."""

from __future__ import annotations

from collections.abc import Iterator

from desim.spec.rules.finding import (
    Finding,
    Rule,
    data_size,
    divisors,
    micro_batches,
    nearest_divisors,
    nearest_multiples,
)
from desim.spec.scenario import Scenario
from desim.spec.workload import Transformer

_AXES = ("tp", "cp", "ep", "dp", "pp")
_DEVICES = ("cluster.devices",)
_MESH = (
    "parallel.tensor", "parallel.context", "parallel.pipeline", "parallel.data", "cluster.devices",
)  # fmt: skip
_BATCH = (*_MESH, "workload.global_batch", "workload.micro_batch")
#: What one process can hold: tables of a million ranks; passes of a layer at about 40 kB each.
_MAX_DEVICES = 2**20
_MAX_PASSES = 250_000


def mesh_fills_devices(scenario: Scenario) -> Iterator[Finding]:
    """tensor x context x pipeline x data is the number of devices."""
    if data_size(scenario) is not None:
        return
    parallel, devices = scenario.parallel, scenario.cluster.devices
    inner = parallel.tensor * parallel.context * parallel.pipeline
    sizes = f"{parallel.tensor} x {parallel.context} x {parallel.pipeline}"
    if parallel.data == "auto":
        rule = (
            "tensor x context x pipeline must divide the devices: "
            f"{sizes} = {inner}, {devices} / {inner} leaves {devices % inner}"
        )
        yield Finding("parallel", rule, hint=_closest_meshes(scenario, inner))
        return
    product = inner * parallel.data
    rule = (
        "tensor x context x pipeline x data must be the devices: "
        f"{sizes} x {parallel.data} = {product}, not {devices}"
    )
    if devices % inner == 0:
        hint = f"set data: {devices // inner} (or auto), or devices: {product}"
    else:
        hint = _closest_meshes(scenario, inner)
    yield Finding("parallel.data", rule, parallel.data, hint)


def _closest_meshes(scenario: Scenario, inner: int) -> str:
    """Suggest a size of each axis that would fit, and numbers of devices that would."""
    parallel, devices = scenario.parallel, scenario.cluster.devices
    choices = []
    for axis in ("tensor", "context", "pipeline"):
        size = getattr(parallel, axis)
        rest, odd = divmod(devices, inner // size)
        if size > 1 and odd == 0 and rest > 0:
            choices.append(f"{axis}: {nearest_divisors(rest, size)}")
    choices.append(f"devices: {nearest_multiples(devices, inner)}")
    return "nearest: " + ", or ".join(choices)


def nodes_are_full(scenario: Scenario) -> Iterator[Finding]:
    """A job larger than a node holds whole nodes."""
    devices, per_node = scenario.cluster.devices, scenario.cluster.system.devices_per_node
    if devices > per_node and devices % per_node:
        rule = f"must fill whole nodes: {devices} / {per_node} leaves {devices % per_node}"
        hint = f"nearest: {nearest_multiples(devices, per_node)}"
        yield Finding("cluster.devices", rule, devices, hint)


def system_is_large_enough(scenario: Scenario) -> Iterator[Finding]:
    """A system that was built only so large holds no larger job."""
    devices, limit = scenario.cluster.devices, scenario.cluster.system.max_devices
    if limit is not None and devices > limit:
        name = scenario.cluster.system.name
        rule = f"{name} has {limit} devices"
        yield Finding("cluster.devices", rule, devices, f"at most {limit}")


def batch_divides(scenario: Scenario) -> Iterator[Finding]:
    """Every replica gets the same whole number of micro-batches."""
    size = data_size(scenario)
    if size is None or micro_batches(scenario) is not None:
        return
    workload = scenario.workload
    unit = size * workload.micro_batch
    rule = (
        f"must be a multiple of micro_batch x data: {workload.micro_batch} x {size} = {unit}, "
        f"{workload.global_batch} / {unit} leaves {workload.global_batch % unit}"
    )
    hint = f"nearest: {nearest_multiples(workload.global_batch, unit)}"
    yield Finding("workload.global_batch", rule, workload.global_batch, hint)


def job_can_be_held(scenario: Scenario) -> Iterator[Finding]:
    """The tables of all ranks and the tasks of all micro-batches fit in memory."""
    devices, steps = scenario.cluster.devices, scenario.run.steps
    if devices > _MAX_DEVICES:
        rule = f"desim holds at most {_MAX_DEVICES} devices"
        yield Finding("cluster.devices", rule, devices, f"nearest: {_MAX_DEVICES}")
    model, count = scenario.workload.model, micro_batches(scenario)
    layers = model.layers if isinstance(model, Transformer) else 1
    if count is None or steps * count * layers <= _MAX_PASSES:
        return
    rule = (
        f"desim plays at most {_MAX_PASSES} passes of a layer: "
        f"steps x micro-batches x layers = {steps} x {count} x {layers} = {steps * count * layers}"
    )
    if count * layers <= _MAX_PASSES:
        hint = f"nearest: {_MAX_PASSES // (count * layers)}"
        yield Finding("run.steps", rule, steps, hint)
    else:
        batch = scenario.workload.global_batch
        hint = f"at most {batch // count * max(1, _MAX_PASSES // layers)}"
        yield Finding("workload.global_batch", rule, batch, hint)


def order_names_every_axis(scenario: Scenario) -> Iterator[Finding]:
    """The order is a permutation of the five axes."""
    order = scenario.parallel.order
    if sorted(order.split("-")) != sorted(_AXES):
        rule = f"must name each of {', '.join(_AXES)} once, joined by '-'"
        yield Finding("parallel.order", rule, order, "as in tp-cp-ep-dp-pp")


def tensor_stays_in_nvlink(scenario: Scenario) -> Iterator[Finding]:
    """A tensor-parallel group beyond the NVLink domain is allowed but slow."""
    tensor, domain = scenario.parallel.tensor, scenario.cluster.system.nvlink_domain
    if tensor <= domain:
        return
    where = f"the NVLink domain of {domain}" if domain > 1 else "one device (there is no NVLink)"
    text = f"a tensor-parallel group of {tensor} reaches beyond {where}; its links are slower"
    yield Finding("parallel.tensor", text, tensor, f"tensor: {domain} stays inside", note=True)


def domains_are_full(scenario: Scenario) -> Iterator[Finding]:
    """A job that leaves the last NVLink domain of several in part has unlike ranks.

    Schedulers avoid it with segments of a domain: Slurm's `--segment=16` takes 16 of the 18 trays
    of an NVL72 rack (docs.coreweave.com, managed-grafana/sunk/slurm-block-topology).
    """
    devices, system = scenario.cluster.devices, scenario.cluster.system
    domain, per_node = system.nvlink_domain, system.devices_per_node
    if domain <= per_node or devices <= domain or devices % domain == 0:
        return
    whole, rest = divmod(devices, domain)
    text = (
        f"{devices} = {whole} x {domain} + {rest} fills the last NVLink domain in part: groups are "
        "cut unevenly, and the more kinds of ranks there are, the longer desim plays"
    )
    same = [part for part in divisors(devices) if part < domain and part % per_node == 0]
    hint = f"nearest: {nearest_multiples(devices, domain)}"
    if same:
        hint += (
            f", or cluster.system.nvlink_domain: {same[-1]} if the scheduler takes so many "
            "of each domain"
        )
    yield Finding("cluster.devices", text, devices, hint, note=True)


def shard_divides(scenario: Scenario) -> Iterator[Finding]:
    """States are sharded over equal parts of the data-parallel (times context) ranks."""
    parallel, size = scenario.parallel, data_size(scenario)
    shard = parallel.shard
    if shard is None or size is None:
        return
    ranks = size * parallel.context
    if parallel.zero == 0:
        text = "has no effect: parallel.zero: 0 shards nothing"
        yield Finding("parallel.shard", text, shard, "zero: 1 shards optimizer states", note=True)
    if ranks % shard:
        rule = (
            f"must divide data x context: {size} x {parallel.context} = {ranks}, "
            f"{ranks} / {shard} leaves {ranks % shard}"
        )
        hint = f"nearest: {nearest_divisors(ranks, shard)}"
        yield Finding("parallel.shard", rule, shard, hint)
    elif shard == 1 and parallel.zero == 3 and ranks > 1:
        rule = "zero: 3 over one rank shards nothing"
        yield Finding("parallel.shard", rule, shard, "set zero: 0, or shard: 2 or more")


RULES = (
    Rule(mesh_fills_devices, _MESH),
    Rule(nodes_are_full, (*_DEVICES, "cluster.system.devices_per_node")),
    Rule(system_is_large_enough, (*_DEVICES, "cluster.system.max_devices")),
    Rule(batch_divides, _BATCH),
    Rule(job_can_be_held, (*_BATCH, "workload.model", "run.steps")),
    Rule(shard_divides, (*_MESH, "parallel.shard", "parallel.zero")),
    Rule(order_names_every_axis, ("parallel.order",)),
    Rule(tensor_stays_in_nvlink, ("parallel.tensor", "cluster.system.nvlink_domain")),
    Rule(domains_are_full, (*_DEVICES, "cluster.system.nvlink_domain")),
)
