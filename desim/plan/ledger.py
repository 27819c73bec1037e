"""The memory ledger: what every task allocates and frees, in the order of issue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from desim.models.optimizer import bytes_per_parameter, table_bytes_per_parameter
from desim.models.recipe import kept_parameter_bytes
from desim.models.width import element_bytes
from desim.record import Memory

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from desim.models.op import Layer
    from desim.plan.context import Context
    from desim.plan.program import Program


@dataclass(frozen=True, slots=True)
class Ledger:
    """Bytes by owner (row) after every task that allocates or frees (column), in issue order.

    The host's order counts, as for a caching allocator: a block is taken when the host issues its
    task, and what a task frees can be used by the next one issued.
    """

    owners: tuple[str, ...]
    task: NDArray[np.int64]
    by_owner: NDArray[np.float64]
    peak_index: int
    owner: NDArray[np.int64]
    """Owner (row of those that move) of each allocation or free, in issue order."""
    change: NDArray[np.float64]
    """Bytes that it takes, or with a negative sign gives back."""
    fixed_bytes: float
    """Bytes that are there all the time."""

    @property
    def peak_bytes(self) -> float:
        """Largest sum over all owners."""
        return float(self.by_owner[:, self.peak_index].sum())

    @property
    def peak_task(self) -> int:
        """Task before which the peak stands."""
        return int(self.task[self.peak_index])


def make_ledger(context: Context, program: Program, layers: tuple[Layer, ...]) -> Ledger:
    """Add up the ledger of one program over its last step.

    `layers` are those that the rank holds; their parameters, gradients and optimizer states are
    there all the time.
    """
    fixed = fixed_bytes(context, layers)
    names = list(context.tables.owners)
    first, last = program.cut_tasks[-2], program.cut_tasks[-1]
    kept = (program.memory_task >= first) & (program.memory_task < last)
    tasks = program.memory_task[kept]
    order = np.argsort(tasks, kind="stable")
    tasks, owner = tasks[order], program.memory_owner[kept][order]
    change = np.zeros((len(names), len(tasks) + 1))
    change[owner, np.arange(len(tasks)) + 1] = program.memory_bytes[kept][order]
    moving = np.cumsum(change, axis=1)
    constant = np.repeat(np.array(list(fixed.values()))[:, None], moving.shape[1], axis=1)
    by_owner = np.concatenate([constant, moving])
    total = by_owner.sum(axis=0)
    return Ledger(
        owners=(*fixed, *names),
        task=np.concatenate([[first], tasks]),
        by_owner=by_owner,
        peak_index=int(np.argmax(total)),
        owner=owner.astype(np.int64),
        change=program.memory_bytes[kept][order],
        fixed_bytes=float(sum(fixed.values())),
    )


def fixed_bytes(context: Context, layers: tuple[Layer, ...]) -> dict[str, float]:
    """Bytes that a rank holds throughout a step, by owner."""
    scenario = context.scenario
    precision = scenario.workload.precision
    tables = [layer for layer in layers if layer.kind == "tables"]
    dense = [layer for layer in layers if layer.kind != "tables"]
    held: dict[str, float] = {}
    for parameters, shards in context.data_groups.parts(dense):
        for owner, size in bytes_per_parameter(precision, scenario.parallel.zero, shards).items():
            held[owner] = held.get(owner, 0.0) + parameters * size
    frozen = sum(module.frozen for layer in layers for module in layer.modules)
    sharded = context.data_groups.shard if scenario.parallel.zero == 3 else 1
    held["parameters"] += frozen * element_bytes(precision.compute) / sharded
    if context.recipe is not None and scenario.parallel.zero < 3:
        quantized = sum(layer.quantized for layer in layers)
        copies = kept_parameter_bytes(precision, context.recipe) - context.parameter_bytes
        held["parameters"] += quantized * copies
    model = scenario.workload.model
    if model.family == "transformer":
        held["library buffers"] = _library_bytes(context, layers)
    if tables and model.family == "dlrm":
        width = table_bytes_per_parameter(precision, model.embedding_dim)
        held["embedding tables"] = sum(layer.parameters for layer in tables) * width
    return held


def _library_bytes(context: Context, layers: tuple[Layer, ...]) -> float:
    """Bytes that libraries keep from the first use on.

    cuBLAS has a workspace for PyTorch's GEMMs and another for Transformer Engine's. Since version
    2.3 Transformer Engine keeps one placeholder gradient per shape of its weights, which autograd
    is given instead of the gradient that the GEMM added to the main gradients.
    """
    kernels = context.scenario.kernels
    workspace = context.scenario.cluster.system.device.workspace_bytes
    if kernels.fusion != "te":
        return workspace
    shapes = set()
    if kernels.te_at_least(2, 3) and context.scenario.parallel.zero < 3:
        blocks = {id(layer): layer for layer in layers if layer.kind == "block"}
        shapes = {shape for layer in blocks.values() for shape in _weight_shapes(layer)}
    placeholder = sum(m * n for m, n in shapes) * element_bytes(
        context.scenario.workload.precision.compute
    )
    return 2 * workspace + placeholder


def _weight_shapes(layer: Layer) -> set[tuple[int, int]]:
    """Shapes of the weights whose gradients are added to main gradients."""
    return {
        (op.shape[0], op.shape[1])
        for module in layer.modules
        if module.parameters
        for op in module.wgrad
        if op.kind in ("gemm", "grouped_gemm") and op.variant == "wgrad"
    }


def timed(
    ledger: Ledger,
    starts_ps: NDArray[np.int64],
    peak_name: str,
    reserved_bytes: float,
    outside_bytes: float,
) -> Memory:
    """The ledger with the time at which the device reached each sample's task."""
    last = len(starts_ps) - 1
    times = np.maximum.accumulate(starts_ps[np.minimum(ledger.task, last)])
    return Memory(
        owners=ledger.owners,
        time_ps=times,
        by_owner=ledger.by_owner,
        peak_bytes=ledger.peak_bytes,
        peak_index=ledger.peak_index,
        peak_task=peak_name,
        reserved_bytes=reserved_bytes,
        outside_bytes=outside_bytes,
    )
