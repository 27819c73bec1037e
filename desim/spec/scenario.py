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
    """A name of the catalogue, the path of a file, or the mapping."""
    devices: PositiveInt
    """GPUs of the job; whole nodes where they are more than one node."""
    device_hour_price: Annotated[float, Ge(0)] | None = None
    """What a GPU costs for an hour, in any currency: the summary then says what training costs."""


class Parallel(Spec):
    """How the job is cut over the devices."""

    tensor: PositiveInt = 1
    """Ranks that share every matrix (Megatron's tensor parallelism)."""
    sequence: bool = True
    """Whether norms and residuals between tensor-parallel regions are split along the sequence."""
    pipeline: PositiveInt = 1
    """Pipeline stages."""
    virtual_stages: PositiveInt = 1
    """Model chunks per pipeline stage (interleaved schedule; `zb_v` has two)."""
    stage_layers: tuple[Annotated[int, Ge(0)], ...] | None = Field(default=None, strict=False)
    """Layers of each stage (each chunk of each stage for virtual stages, in model order). The first
    may be 0, which leaves it the embedding, and the last, which leaves it the head."""
    context: PositiveInt = 1
    """Ranks that share every sequence."""
    expert: PositiveInt = 1
    """Ranks that share the experts of a mixture; they are taken from data, context and tensor."""
    expert_tensor: PositiveInt | None = None
    """Ranks that share the matrices of every expert; as many as `tensor` where left out."""
    data: PositiveInt | Literal["auto"] = "auto"
    """Replicas; `auto`: as many as the devices allow."""
    zero: Annotated[int, Ge(0), Field(le=3)] = 1
    """0: replicated; 1: optimizer states sharded (Megatron-LM `--use-distributed-optimizer`,
    DeepSpeed `stage: 1`); 2: gradients too (DeepSpeed `stage: 2`); 3: parameters too (FSDP,
    torchtitan, DeepSpeed `stage: 3`)."""
    shard: PositiveInt | None = None
    """Neighbouring data-parallel ranks over which `zero` shards, each such group with a copy of its
    own (ZeRO inside a node, hybrid sharding: PyTorch's HYBRID_SHARD, InternEvo, Megatron-LM
    `--num-distributed-optimizer-instances`); left out: all of them, context ranks included."""
    embedding: Literal["sharded", "replicated"] = "sharded"
    """Embedding tables of a recommendation model: spread over all ranks, or a copy on each."""
    order: str = "tp-cp-ep-dp-pp"
    """Mesh axes from the one whose ranks are neighbours outward."""


class SlowDevice(Spec):
    """A device whose kernels run at a fraction of their speed."""

    device: Annotated[int, Ge(0)]
    """Number of the device, from 0."""
    compute: Share
    """Share of its speed that it keeps."""


class DegradedLink(Spec):
    """A link, by name or by a pattern with `*`, at a fraction of its bandwidth."""

    link: str
    """Kind and place, `*` for any: `nic_out[3.0]` is node 3's first NIC outward, `nvlink_in[17]`
    device 17's NVLink inward, `leaf_up[su0.rail3]` a leaf's uplinks, `rail3` all of a rail. In
    quotes inside braces: `[{link: "nic_out[3.0]", bandwidth: 0.5}]`."""
    bandwidth: Share
    """Share of its bandwidth that it keeps."""


class Jitter(Spec):
    """Random stretch of every kernel: a log-normal factor with this standard deviation."""

    jitter: Annotated[float, Gt(0), Field(le=1)]
    """Standard deviation, as a share."""


_DISTURBANCE_KEYS = {
    "slow device": (SlowDevice, ("device", "compute")),
    "degraded link": (DegradedLink, ("link", "bandwidth")),
    "random jitter": (Jitter, ("jitter",)),
}


def _disturbance_kind(value: Any) -> str | None:
    """Tell disturbances apart by their keys; the first of a kind counts double."""
    scores = {}
    for kind, (model, keys) in _DISTURBANCE_KEYS.items():
        if isinstance(value, model):
            return kind
        if isinstance(value, dict):
            scores[kind] = sum(key in value for key in (keys[0], *keys))
    best = max(scores, key=lambda kind: scores[kind], default=None)
    return best if best is not None and scores[best] else None


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
    """Seed of all random numbers."""
    fold: Literal["auto"] | bool = "auto"
    """`auto` and true: one representative per rank class; false: every rank is played."""
    fold_time: Literal["auto", "pace"] | bool = "auto"
    """Where only the step time is asked for (`desim validate`): `auto` and true leave
    micro-batches out that repeat, or drift evenly, to the picosecond, `pace` also those after which
    every rank keeps its pace to 1 in 1,000; false: every one is played. A run with a timeline plays
    all."""


class Output(Spec):
    """What is written beside the summary."""

    trace: Literal["representatives", "none"] = "representatives"
    """Timeline of one rank of each kind, or no timeline."""
    report: bool = True
    """Whether the page is written."""


class Scenario(Spec):
    """One run: workload, cluster, parallelisation, policies and settings."""

    name: str
    """What the results are called."""
    workload: Workload
    """What is trained."""
    cluster: Cluster
    """On what."""
    parallel: Parallel = Parallel()
    """How it is cut over the devices."""
    policies: Policies = Policies()
    """When and how the work is done."""
    kernels: Kernels = Kernels()
    """With which software."""
    disturb: tuple[Disturbance, ...] = Field(default=(), strict=False)
    """What is slower than it should be."""
    run: Run = Run()
    """Settings of the simulation."""
    output: Output = Output()
    """What is written."""
