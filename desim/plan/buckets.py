"""Gradient buckets: reduced as their gradients are done, gathered again as parameters."""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm
from typing import TYPE_CHECKING

from desim.models.elementwise import elementwise_op
from desim.plan.passes import Hooks
from desim.plan.template import Input

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from desim.models.op import Op
    from desim.plan.data_groups import DataGroups
    from desim.plan.stages import Chunk
    from desim.plan.template import Emitter, Mark

#: Elements per rank to which a bucket is padded, so that every rank's shard is aligned.
PADDING = 64

#: `policies.bucket_padding`: ranks that share a bucket -> what its size is a multiple of.
#: Megatron-LM's core/distributed/param_and_grad_buffer.py rounds the ends of the distributed
#: optimizer's buckets up to lcm(ranks, 128), with `--ddp-pad-buckets-for-high-nccl-busbw` to
#: lcm(ranks, 128, 2^16).
PADDINGS: dict[str, Callable[[int], int]] = {
    "aligned_shards": lambda ranks: PADDING * ranks,
    "megatron": lambda ranks: lcm(ranks, 128),
    "megatron_busbw": lambda ranks: lcm(ranks, 128, 2**16),
    "none": lambda ranks: 1,
}

#: Memory owner of gradients between their backward pass and their reduction.
WHOLE_GRADIENTS = "whole gradients"


@dataclass(frozen=True, slots=True)
class Bucket:
    """Parameters that are reduced together: `modules` are (position, part) in the chunk.

    `parameters` counts padding, `held` does not; `quantized` of them are in low precision.
    """

    parameters: int
    held: int
    quantized: int
    modules: tuple[tuple[int, int], ...]
    expert: bool = False
    """Whether they are parameters of experts, which are reduced in groups of their own."""


@dataclass(frozen=True, slots=True)
class GradientWidth:
    """Bytes of a gradient as it is kept, as it is communicated, and as it is made."""

    kept_bytes: float
    reduced_bytes: float
    made_bytes: float

    def casts(self, gradients: float) -> tuple[Op, ...]:
        """Return the conversion before a reduction, where it runs in another format."""
        if self.kept_bytes == self.reduced_bytes:
            return ()
        return (
            elementwise_op(
                "grad_cast", "cast", "fp32", gradients, self.kept_bytes, self.reduced_bytes
            ),
        )

    def scaled(self, gradients: float) -> tuple[Op, ...]:
        """Return the division by the ranks, in the format that is reduced.

        Megatron-LM scales a bucket before it is reduced (`gradient_scaling_factor`, earlier `grad
        /= world size`), DeepSpeed and InternEvo divide.
        """
        width = self.reduced_bytes
        return (elementwise_op("grad_scale", "copy", "fp32", gradients, width, width),)

    def joined(self, gradients: float) -> tuple[Op, ...]:
        """Return the copies of tensors into a flat one, and back once it is reduced.

        InternEvo's hybrid_zero_optim.py (`_reduce_and_copy`: `flatten`, `unflatten_and_copy`) makes
        both on the stream of the reduction; they take device memory from compute all the same.
        """
        width = self.reduced_bytes
        names = ("grad_flatten", "grad_unflatten")
        return tuple(
            elementwise_op(name, "copy", "fp32", gradients, width, width, 0.0) for name in names
        )


def make_buckets(
    chunk: Chunk,
    bucket_parameters: float,
    groups: DataGroups,
    *,
    pad: bool,
    padding: str = "aligned_shards",
    by_layer: bool = False,
) -> list[Bucket]:
    """Cut a chunk's parameters into buckets in the order in which the backward pass finishes them.

    A bucket is closed once it holds `bucket_parameters`, as in Megatron-LM and torch DDP, and
    `by_layer` at the end of every layer. With `pad` its size is rounded up as `padding` (a name in
    `PADDINGS`) says, so that every rank's shard is equal and aligned (ZeRO-1/2). Experts with
    groups of their own have buckets of their own.
    """
    unit = PADDINGS[padding if pad else "none"]
    kinds: dict[tuple[bool, ...], DataGroups] = {(False, True): groups}
    if groups.experts is not None:
        kinds = {(False,): groups, (True,): groups.experts}
    buckets = [
        bucket
        for kind, those in kinds.items()
        if those.ranks > 1
        for bucket in _buckets_of(chunk, bucket_parameters, unit(those.shard), kind, by_layer)
    ]
    return sorted(buckets, key=lambda bucket: bucket.modules[-1], reverse=True)


def _buckets_of(
    chunk: Chunk, bucket_parameters: float, unit: int, kinds: Collection[bool], by_layer: bool
) -> list[Bucket]:
    """Cut the parameters of experts, of the others, or of both into buckets."""
    expert = False not in kinds
    buckets: list[Bucket] = []
    modules: list[tuple[int, int]] = []
    parameters = quantized = 0

    def close() -> None:
        nonlocal modules, parameters, quantized
        whole = -(-parameters // unit) * unit
        buckets.append(Bucket(whole, parameters, quantized, tuple(modules), expert))
        modules, parameters, quantized = [], 0, 0

    for position in reversed(range(len(chunk))):
        layer = chunk[position][1]
        for part in reversed(range(len(layer.modules))):
            module = layer.modules[part]
            if not module.trained or module.expert not in kinds:
                continue
            modules.append((position, part))
            parameters += module.trained
            quantized += 0 if module.frozen else module.quantized
            if parameters >= bucket_parameters:
                close()
        if by_layer and modules:
            close()
    if modules:
        close()
    return buckets


class ReduceBuckets(Hooks):
    """Issues the reduction of each bucket once the last of its gradients is issued."""

    def __init__(
        self,
        buckets: list[Bucket],
        groups: DataGroups,
        width: GradientWidth,
        *,
        scatter: bool,
        frees: bool,
    ) -> None:
        self._after = {bucket.modules[-1]: bucket for bucket in buckets}
        self._groups = groups
        self._scatter = scatter
        self._width = width
        self._frees = frees

    def after_backward(self, emit: Emitter, position: int, part: int) -> None:
        """Reduce the bucket that this module completes."""
        bucket = self._after.get((position, part))
        if bucket is not None:
            phase, emit.phase = emit.phase, "gradients"
            reduce_bucket(
                emit,
                bucket,
                self._groups,
                self._width,
                scatter=self._scatter,
                beside=True,
                frees=self._frees,
            )
            emit.phase = phase


def reduce_bucket(
    emit: Emitter,
    bucket: Bucket,
    groups: DataGroups,
    width: GradientWidth,
    *,
    scatter: bool,
    beside: bool,
    frees: bool,
) -> Mark:
    """Issue the reduction of one bucket after what compute has done so far.

    `frees` gives back the whole gradients that `WholeGradients` took.
    """
    emit.kernels(width.casts(bucket.parameters))
    emit.kernels(width.scaled(bucket.parameters))
    if groups.whole:
        emit.kernels(width.joined(bucket.parameters))
    size = bucket.parameters * width.reduced_bytes
    name = "expert grad reduce" if bucket.expert else "grad reduce"
    mark = groups.of(bucket.expert).reduce(emit, size, scatter=scatter, beside=beside, name=name)
    if frees:
        emit.memory(WHOLE_GRADIENTS, -bucket.held * width.kept_bytes)
    return mark


class WholeGradients(Hooks):
    """Takes memory for a module's whole gradient until its bucket is reduced (ZeRO-2).

    One that no bucket holds, of experts without copies, stays where it is kept.
    """

    def __init__(self, chunk: Chunk, buckets: list[Bucket], bytes_per_gradient: float) -> None:
        self._chunk = chunk
        self._held = {module for bucket in buckets for module in bucket.modules}
        self._bytes = bytes_per_gradient

    def after_backward(self, emit: Emitter, position: int, part: int) -> None:
        """Keep the gradient that this module has made."""
        if (position, part) in self._held:
            parameters = self._chunk[position][1].modules[part].trained
            emit.memory(WHOLE_GRADIENTS, parameters * self._bytes)


class AwaitBuckets(Hooks):
    """Makes each module of the first forward pass wait for its bucket's parameters (ZeRO-1/2).

    The gathers themselves are issued when the step begins, in the order of use, so that later
    stages gather while the pipeline fills. The mark of bucket i is the template's input
    `gathered(i)`. With `issue` only the first is: it issues the next bucket's gather once one is
    needed, as Megatron-LM's `finish_param_sync` does (core/distributed/param_and_grad_buffer.py).
    """

    def __init__(
        self, buckets: list[Bucket], issue: Callable[[Emitter, int], Mark] | None = None
    ) -> None:
        self._of = {m: i for i, bucket in enumerate(buckets) for m in bucket.modules}
        self._awaited: set[int] = set()
        self._issue = issue
        self._next = len(buckets) - 2
        self._marks: dict[int, Mark] = {}

    def before_forward(self, emit: Emitter, position: int, part: int) -> None:
        """Wait for the bucket that this module needs, and have the next one gathered."""
        bucket = self._of.get((position, part))
        if bucket is None or bucket in self._awaited:
            return
        self._issue_down_to(emit, bucket)
        emit.wait(self._marks.get(bucket, Input(gathered(bucket))))
        self._awaited.add(bucket)
        self._issue_down_to(emit, bucket - 1)

    def _issue_down_to(self, emit: Emitter, bucket: int) -> None:
        while self._issue is not None and self._next >= max(bucket, 0):
            self._marks[self._next] = self._issue(emit, self._next)
            self._next -= 1


def gathered(bucket: int) -> str:
    """Name of the mark at which a bucket's parameters are there."""
    return f"gathered {bucket}"
