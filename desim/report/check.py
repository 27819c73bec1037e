"""What `desim check` finds without playing a scenario."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from desim.analyze.fit import estimate_memory
from desim.models.count import active_parameter_count, flops_per_sample, parameter_count
from desim.network.topology import build_topology
from desim.plan.disturb import disturb
from desim.plan.documents import attention_share
from desim.plan.mesh import build_mesh
from desim.spec.dump import dump_scenario
from desim.units import show

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from desim.plan.mesh import Mesh
    from desim.spec.scenario import Scenario


def examine(scenario: Scenario) -> dict[str, Any]:
    """Return mesh, parameter counts, FLOPs and memory estimate of a valid scenario.

    Raises SpecError where a disturbance names no link.
    """
    cluster, workload = scenario.cluster, scenario.workload
    topology = build_topology(cluster.system, cluster.devices)
    disturb(scenario, topology)
    mesh = build_mesh(scenario.parallel)
    memory = estimate_memory(scenario)
    capacity = cluster.system.device.memory_bytes
    flops = flops_per_sample(workload, attention_share(scenario)) * workload.global_batch
    data = mesh.sizes["dp"]
    return {
        "name": scenario.name,
        "scenario": scenario.model_dump(mode="json", by_alias=True, exclude_none=True),
        "parameters": parameter_count(workload.model),
        "active_parameters": active_parameter_count(workload.model),
        "model_flops_per_step": flops,
        "num_devices": cluster.devices,
        "mesh": mesh.stated,
        "order": "-".join(mesh.order),
        "groups": _groups(mesh, cluster.system.devices_per_node),
        "micro_batches": workload.global_batch // (workload.micro_batch * data),
        "peak_memory_bytes": {str(stage): one.peak_bytes for stage, one in enumerate(memory)},
        "needed_memory_bytes": {str(stage): one.needed_bytes for stage, one in enumerate(memory)},
        "device_memory_bytes": capacity,
        "fits": all(one.needed_bytes <= capacity for one in memory),
    }


def _groups(mesh: Mesh, devices_per_node: int) -> dict[str, dict[str, int]]:
    """Size of the groups along each axis and how many nodes one of them touches at most."""
    found = {}
    for axis, size in mesh.stated.items():
        if size > 1:
            place = mesh.experts if axis == "ep" and mesh.experts is not None else mesh
            nodes = place.groups(axis) // devices_per_node
            most = max(len(np.unique(row)) for row in nodes[: min(len(nodes), 64)])
            found[axis] = {"ranks": size, "groups": len(nodes), "nodes": most}
    return found


def check_text(findings: Mapping[str, Any], scenario: Scenario, notes: Sequence[str]) -> str:
    """Write the resolved scenario and the findings for a terminal, what matters most last."""
    lines = [dump_scenario(scenario), f"{findings['name']}: valid"]
    lines.append(f"  parameters     {findings['parameters']:,}")
    if findings["active_parameters"] != findings["parameters"]:
        lines[-1] += f", of which a token meets {findings['active_parameters']:,}"
    lines.append(f"  model FLOPs    {findings['model_flops_per_step']:.4g} per step")
    lines.append(f"  devices        {findings['num_devices']:,}")
    mesh = " ".join(f"{axis}{size}" for axis, size in findings["mesh"].items())
    lines.append(f"  mesh           {mesh} (order {findings['order']})")
    for axis, group in findings["groups"].items():
        lines.append(
            f"    {axis}           {_count(group['groups'], 'group')} of"
            f" {_count(group['ranks'], 'rank')} on {_count(group['nodes'], 'node')} each"
        )
    lines.append(f"  micro-batches  {findings['micro_batches']:,} per step and pipeline")
    capacity = show(findings["device_memory_bytes"], "bytes")
    lines.append(f"  memory         estimated peak of each stage, of {capacity}:")
    for stage, peak in findings["peak_memory_bytes"].items():
        need = findings["needed_memory_bytes"][stage]
        over = "" if need <= findings["device_memory_bytes"] else "   DOES NOT FIT"
        lines.append(f"    stage {stage:<3}    {show(peak, 'bytes')}{over}")
    lines += [f"warning: {note}" for note in notes]
    return "\n".join(lines)


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}" + ("" if number == 1 else "s")
