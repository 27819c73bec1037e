"""The way in to kernel times: an op goes to the cost function of its kind."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from desim.kernels.attention import attention_time, choose_backend
from desim.kernels.gemm import gemm_time
from desim.kernels.grouped_gemm import grouped_gemm_time
from desim.kernels.measured import open_tables
from desim.kernels.memory_bound import memory_bound_time
from desim.kernels.software import stack
from desim.kernels.spread import slowest_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from desim.kernels.time import KernelTime
    from desim.models.op import Op
    from desim.spec.hardware import Device
    from desim.spec.policy import Kernels
    from desim.spec.scenario import Scenario


def kernel_model(scenario: Scenario) -> KernelModel:
    """Return the times of ops on the slowest device of a scenario's job."""
    cluster = scenario.cluster
    return KernelModel(slowest_of(cluster.system.device, cluster.devices), scenario.kernels)


class KernelModel:
    """Times of ops in a step on a device under a software stack, each computed once.

    `tables` may take over any op from measurements: a callable that returns its time or None,
    by default the table that `kernels.tables` names. The model says what part of it is math.
    `notes` says in plain words where a choice of the scenario was replaced.
    """

    def __init__(
        self,
        device: Device,
        kernels: Kernels,
        tables: Callable[[Op], KernelTime | None] | None = None,
    ) -> None:
        """Choose the attention backend; raises SpecError where the device has none that fits."""
        self.device = device
        self.kernels = kernels
        self.notes: tuple[str, ...] = ()
        self._gap_s = stack(kernels).gap_s
        self._known: dict[Op, KernelTime] = {}
        self._backend = kernels.attention
        if kernels.attention != "unfused":
            self._backend = choose_backend(device, kernels.attention)
            if self._backend != kernels.attention:
                self.notes = (
                    f"{device.name} has no {kernels.attention} attention: "
                    f"{self._backend} is used instead",
                )
        self._tables = tables
        if tables is None and (known := open_tables(kernels.tables, self._backend)):
            self._tables = known
            if known.devices != (device.name,):
                measured = ", ".join(known.devices) or "no device"
                self.notes += (f"kernels.tables: measured on {measured}, not {device.name}",)
        #: op kind -> cost function; every other kind streams memory
        self._costs: dict[str, Callable[[Op], KernelTime]] = {
            "gemm": lambda op: gemm_time(op, device),
            "grouped_gemm": lambda op: grouped_gemm_time(op, device),
            "attention": lambda op: attention_time(op, device, self._backend),
        }

    def time(self, op: Op) -> KernelTime:
        """Return what `op` costs in a step: measured where a table knows it, else modelled."""
        found = self._known.get(op)
        if found is None:
            found = self._known[op] = self._compute(op)
        return found

    def alone(self, op: Op) -> KernelTime:
        """Return what `op` costs with nothing before or beside it: measured or modelled."""
        cost = self._costs.get(op.kind)
        modelled = cost(op) if cost else memory_bound_time(op, self.device)
        found = self._tables(op) if self._tables else None
        return modelled if found is None else _in_parts(found, modelled)

    def _compute(self, op: Op) -> KernelTime:
        found = self.alone(op)
        return replace(
            found,
            compute_s=found.compute_s / self.device.kernels.in_step,
            memory_s=found.memory_s / self.device.kernels.memory_in_step,
            floor_s=found.floor_s + self._gap_s,
        )


def _in_parts(measured: KernelTime, modelled: KernelTime) -> KernelTime:
    """Divide a measured time as the model does its own: a step stretches math and memory apart."""
    floor_s = min(modelled.floor_s, measured.alone_s)
    longest_s = modelled.alone_s - modelled.floor_s
    if longest_s <= 0.0:
        return measured
    scale = (measured.alone_s - floor_s) / longest_s
    return replace(
        measured,
        compute_s=modelled.compute_s * scale,
        memory_s=modelled.memory_s * scale,
        floor_s=floor_s,
    )
