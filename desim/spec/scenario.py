"""The scenario: the only root of a run."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt
from pydantic import Discriminator, Field, Tag

from desim.spec.base import PositiveInt, Share, Spec
from desim.spec.hardware import System
from desim.spec.policy import Kernels, Policies
from desim.spec.workload import Workload


class Cluster(Spec):
    """How many devices of which system the job holds."""

    system: System
    devices: PositiveInt


class Parallel(Spec):
    """How the job is cut over the devices."""

    tensor: PositiveInt = 1
    sequence: bool = True
    """Whether norms and residuals between tensor-parallel regions are split along the sequence."""
    pipeline: PositiveInt = 1
    virtual_stages: PositiveInt = 1
    """Model chunks per pipeline stage (interleaved schedule)."""
    stage_layers: tuple[PositiveInt, ...] | None = Field(default=None, strict=False)
    """Layers of each stage (each chunk of each stage for virtual stages, in model order)."""
    context: PositiveInt = 1
    expert: PositiveInt = 1
    data: PositiveInt | Literal["auto"] = "auto"
    zero: Annotated[int, Ge(0), Field(le=3)] = 1
    """0: replicated; 1: optimizer states sharded; 2: gradients too; 3: parameters too (FSDP)."""
    embedding: Literal["sharded", "replicated"] = "sharded"
    """Embedding tables of a recommendation model: spread over all ranks, or a copy on each."""
    order: str = "tp-cp-ep-dp-pp"
    """Mesh axes from the one whose ranks are neighbours outward."""


class SlowDevice(Spec):
    """A device whose kernels run at a fraction of their speed."""

    device: Annotated[int, Ge(0)]
    compute: Share


class DegradedLink(Spec):
    """A link, by name or by a pattern with `*`, at a fraction of its bandwidth."""

    link: str
    bandwidth: Share


class Jitter(Spec):
    """Random stretch of every kernel: a log-normal factor with this standard deviation."""

    jitter: Annotated[float, Gt(0), Field(le=1)]


_DISTURBANCE_KEYS = {
    "slow device": (SlowDevice, ("device", "compute")),
    "degraded link": (DegradedLink, ("link", "bandwidth")),
    "random jitter": (Jitter, ("jitter",)),
}


def _disturbance_kind(value: Any) -> str | None:
    """Tell disturbances apart by the keys that only one of them has."""
    for kind, (model, keys) in _DISTURBANCE_KEYS.items():
        if isinstance(value, model) or (isinstance(value, dict) and any(k in value for k in keys)):
            return kind
    return None


Disturbance = Annotated[
    Annotated[SlowDevice, Tag("slow device")]
    | Annotated[DegradedLink, Tag("degraded link")]
    | Annotated[Jitter, Tag("random jitter")],
    Discriminator(_disturbance_kind),
]


class Run(Spec):
    """Settings of the simulation itself."""

    steps: PositiveInt = 1
    """Steps that are measured; step time is their mean."""
    seed: Annotated[int, Ge(0)] = 0
    fold: Literal["auto"] | bool = "auto"
    """`auto` and true: one representative per rank class; false: every rank is played."""


class Output(Spec):
    """What is written beside the summary."""

    trace: Literal["representatives", "none"] = "representatives"
    report: bool = True


class Scenario(Spec):
    """One run: workload, cluster, parallelisation, policies and settings."""

    name: str
    workload: Workload
    cluster: Cluster
    parallel: Parallel = Parallel()
    policies: Policies = Policies()
    kernels: Kernels = Kernels()
    disturb: tuple[Disturbance, ...] = Field(default=(), strict=False)
    run: Run = Run()
    output: Output = Output()
