"""What each choice of `policies.overlap` means to the plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from desim.spec.policy import Overlap


@dataclass(frozen=True, slots=True)
class Reduction:
    """When gradients are reduced.

    `beside`: a bucket once its gradients are done, beside the passes; else all after the last
    backward pass, compute waiting. `by_layer`: a bucket ends with its layer, whatever its size.
    """

    beside: bool = True
    by_layer: bool = False


@dataclass(frozen=True, slots=True)
class Gathering:
    """When sharded parameters are gathered (ZeRO-1/2).

    `beside`: beside the first forward passes, each of which waits for what it needs; else before
    them. `chained`: when a step begins each chunk's first alone, another once the one before it is
    needed; else all, in the order of use.
    """

    beside: bool = True
    chained: bool = False


@dataclass(frozen=True, slots=True)
class TensorOverlap:
    """How tensor-parallel communication meets the matrix products next to it.

    `beside`: backward it runs beside the gradients that do not need it. `chunked`: products are cut
    in chunks, and copy engines move some while others are computed.
    """

    beside: bool = True
    chunked: bool = False


@dataclass(frozen=True, slots=True)
class PipelineOverlap:
    """Whether messages between stages are posted, or waited for one after the other."""

    posted: bool


REDUCTIONS = {
    "none": Reduction(beside=False),
    "bucketed": Reduction(),
    "per_layer": Reduction(by_layer=True),
}
GATHERINGS = {
    "none": Gathering(beside=False),
    "prefetch": Gathering(),
    "chained": Gathering(chained=True),
}
TENSOR = {
    "none": TensorOverlap(beside=False),
    "megatron": TensorOverlap(),
    "chunked": TensorOverlap(chunked=True),
}
PIPELINE = {"blocking": PipelineOverlap(posted=False), "async": PipelineOverlap(posted=True)}


@dataclass(frozen=True, slots=True)
class Overlaps:
    """The choices of a scenario."""

    reduction: Reduction
    gathering: Gathering
    tensor: TensorOverlap
    pipeline: PipelineOverlap


def overlaps_of(chosen: Overlap) -> Overlaps:
    """Return what a scenario's `policies.overlap` means."""
    return Overlaps(
        REDUCTIONS[chosen.grad_reduce],
        GATHERINGS[chosen.param_gather],
        TENSOR[chosen.tensor],
        PIPELINE[chosen.pipeline],
    )
