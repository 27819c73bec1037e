"""What every builder of programs needs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING

from desim.models.recipe import gathered_parameter_bytes, recipe_of
from desim.models.shard import autograd_gradients
from desim.models.width import element_bytes, stored_bytes
from desim.plan.buckets import GradientWidth
from desim.plan.data_groups import DataGroups
from desim.plan.overlap import overlaps_of
from desim.plan.template import Emitter

if TYPE_CHECKING:
    from desim.models.op import Layer
    from desim.models.recipe import Recipe
    from desim.plan.mesh import Mesh
    from desim.plan.overlap import Overlaps
    from desim.plan.tables import Tables
    from desim.spec.hardware import System
    from desim.spec.scenario import Scenario


#: Megatron-LM's core/distributed/distributed_data_parallel.py (`bucket_size`), with its rule that
#: stages after the first have one bucket; training.py gives further model chunks one as well.
_BUCKET_PARAMETERS = 40e6
_BUCKET_PARAMETERS_PER_RANK = 1e6


@dataclass(frozen=True, slots=True)
class Context:
    """A scenario with its layers, mesh, shared tables and host launch times."""

    scenario: Scenario
    layers: tuple[Layer, ...]
    mesh: Mesh
    tables: Tables
    launch_ps: int
    collective_launch_ps: int
    group_launch_ps: int
    graph_launch_ps: int | None
    """Host time to launch a captured pass; None where passes are launched kernel by kernel."""
    kept_repeats: int | None = None
    """Periods of equal micro-batches that are planned, about; None: all."""
    others: tuple[tuple[Layer, ...], ...] = ()
    """Layers as ranks of further kinds see them (`plan.kinds`)."""

    @property
    def kinds(self) -> tuple[Context, ...]:
        """The context of every kind of rank, which share the tables."""
        return (self, *(replace(self, layers=layers, others=()) for layers in self.others))

    def emitter(self) -> Emitter:
        """A writer of templates."""
        launches = (self.launch_ps, self.collective_launch_ps, self.group_launch_ps)
        return Emitter(self.tables, *launches)

    @property
    def system(self) -> System:
        """The cluster's system as the policies use it."""
        return self.scenario.policies.resources.applied(self.scenario.cluster.system)

    @property
    def overlaps(self) -> Overlaps:
        """What communication may run beside compute."""
        return overlaps_of(self.scenario.policies.overlap)

    @property
    def gradient_ranks(self) -> int:
        """Ranks over which gradients are reduced: data parallel times context parallel."""
        return self.mesh.sizes["dp"] * self.mesh.sizes["cp"]

    @property
    def data_groups(self) -> DataGroups:
        """Groups that reduce gradients and share states."""
        shard = self.scenario.parallel.shard
        policies = self.scenario.policies
        whole = policies.zero_partition == "tensors" and self.scenario.parallel.zero == 1
        experts = None
        if self.mesh.experts is not None:
            copies = self.mesh.experts.sizes["dp"]
            experts = DataGroups(copies, copies, "edp", whole=whole)
        ranks, kept = self.gradient_ranks, policies.fsdp.reshard_after_forward
        reshard = 0 if self.scenario.parallel.zero < 3 or isinstance(kept, bool) else kept
        return DataGroups(ranks, shard or ranks, experts=experts, whole=whole, reshard=reshard)

    def bucket_parameters(self, *, whole_chunk: bool) -> float:
        """Parameters at which a gradient bucket is closed.

        Where the scenario gives no size, Megatron-LM's: max(40 M, 1 M x data-parallel ranks), so
        that a larger group's shards do not get too small, and one bucket where the pipeline hides
        the reduction (`whole_chunk`: not the first chunk of the first stage). Buckets of whole
        layers are closed by their layer alone.
        """
        policies = self.scenario.policies
        if self.overlaps.reduction.by_layer:
            return inf
        if policies.bucket_bytes is not None:
            return policies.bucket_bytes / self.gradient_bytes
        if whole_chunk or not self.overlaps.reduction.beside:
            return inf
        return max(_BUCKET_PARAMETERS, _BUCKET_PARAMETERS_PER_RANK * self.gradient_ranks)

    @property
    def micro_batches(self) -> int:
        """Micro-batches that one pipeline plays per step."""
        workload = self.scenario.workload
        return workload.global_batch // (workload.micro_batch * self.mesh.sizes["dp"])

    @property
    def autograd_gradients(self) -> bool:
        """Whether the first gradient of a step is kept as it is made and later ones are added."""
        return autograd_gradients(self.scenario.workload.precision, self.scenario.kernels)

    @property
    def gradient_bytes(self) -> float:
        """Bytes of one gradient as it is accumulated."""
        return stored_bytes(self.scenario.workload.precision.gradients)

    @property
    def reduced_bytes(self) -> float:
        """Bytes of one gradient as it is communicated."""
        precision = self.scenario.workload.precision
        return stored_bytes(precision.reduce or precision.gradients)

    @property
    def gradient_width(self) -> GradientWidth:
        """Both of them, and that of the compute format, which the backward pass makes."""
        made = element_bytes(self.scenario.workload.precision.compute)
        return GradientWidth(self.gradient_bytes, self.reduced_bytes, made)

    @property
    def recipe(self) -> Recipe | None:
        """The low-precision recipe of linear layers."""
        scenario = self.scenario
        any_layout = scenario.cluster.system.device.any_layout
        precision, fusion = scenario.workload.precision, scenario.kernels.fusion
        return recipe_of(precision, fusion, any_layout=any_layout)

    def gathered_bytes(self, parameters: float, quantized: float) -> float:
        """Bytes of `parameters` as they are gathered; `quantized` of them in low precision."""
        precision = self.scenario.workload.precision
        narrow = gathered_parameter_bytes(precision, self.recipe)
        return (parameters - quantized) * self.parameter_bytes + quantized * narrow

    @property
    def parameter_bytes(self) -> float:
        """Bytes of one parameter as it is gathered."""
        return element_bytes(self.scenario.workload.precision.compute)
