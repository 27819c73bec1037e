"""What a step does before its first pass and after its last: gathers, reductions, optimizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from desim.models.elementwise import elementwise_op
from desim.models.op import Comm
from desim.models.optimizer import (
    clip_op,
    fsdp_gradient_bytes,
    gradient_ops,
    optimizer_ops,
    updated_gradient_bytes,
    zero_gradients_op,
)
from desim.plan.buckets import GradientWidth, make_buckets, reduce_bucket
from desim.plan.param_gather import ParameterGathers
from desim.plan.schedules import layout_of
from desim.plan.tables import LANE
from desim.plan.template import START
from desim.spec.schedules import ZERO_BUBBLE

if TYPE_CHECKING:
    from desim.plan.buckets import Bucket
    from desim.plan.context import Context
    from desim.plan.program import ProgramBuilder
    from desim.plan.stages import Chunk
    from desim.plan.template import Emitter, Mark, Template


class StepEnds:
    """The ends of one stage's step under a data-parallel layout.

    `buckets[chunk]` are the chunk's gradient buckets, none where layers are sharded whole (FSDP)
    or nothing is reduced; `gathers` are those of the parameters.
    """

    def __init__(self, context: Context, stage: int, chunks: list[Chunk]) -> None:
        self._context = context
        self._stage = stage
        self._chunks = chunks
        self._policies = context.scenario.policies
        self._zero = context.scenario.parallel.zero
        self._stages = context.scenario.parallel.pipeline
        self._groups = context.data_groups
        self.buckets = [self._make_buckets(i, chunk) for i, chunk in enumerate(chunks)]
        self.gathers = ParameterGathers(context, chunks, self.buckets)
        self._optimizer = self._update()

    def _make_buckets(self, number: int, chunk: Chunk) -> list[Bucket]:
        if self._zero == 3:
            return []
        first = self._stage == 0 and number == 0
        wanted = self._context.bucket_parameters(whole_chunk=not first)
        groups, policies = self._groups, self._policies
        return make_buckets(
            chunk,
            wanted,
            groups,
            pad=self._zero > 0 and not groups.whole,
            padding=policies.bucket_padding,
            by_layer=self._context.overlaps.reduction.by_layer,
        )

    @property
    def every_micro_batch(self) -> bool:
        """Whether buckets are reduced after every micro-batch, not after the last alone."""
        return self._zero == 2 or (self._zero < 2 and self._policies.reduce_every_micro_batch)

    @property
    def _parameters(self) -> int:
        return sum(layer.trained for chunk in self._chunks for _, layer in chunk)

    @property
    def _parts(self) -> list[tuple[int, int]]:
        """Parameters of this stage and the ranks that share their optimizer's work.

        Of whole tensors the largest share decides: the others wait for what its owner broadcasts.
        """
        if self._groups.whole and self._groups.gathers:
            return [(self.gathers.largest_owned, 1)]
        parts = self._groups.parts(layer for chunk in self._chunks for _, layer in chunk)
        return parts if self._zero else [(parameters, 1) for parameters, _ in parts]

    def begin(self, builder: ProgramBuilder) -> None:
        """Place what precedes the first pass."""
        self.gathers.begin(builder)
        self._zero_gradients(builder)

    def end(self, builder: ProgramBuilder) -> None:
        """Place what follows the last pass."""
        if not self.every_micro_batch:
            for chunk in reversed(range(len(self._chunks))):
                self.reduce_exposed(builder, chunk)
        builder.wait([builder.now(LANE["dp"])])
        builder.place(self._finish_gradients())
        if clean_cut(self._context):
            builder.synchronize()
        self.update(builder)
        if self._policies.sync == "step":
            builder.synchronize()

    def update(self, builder: ProgramBuilder) -> None:
        """Place the optimizer step."""
        builder.place(self._optimizer)

    def _zero_gradients(self, builder: ProgramBuilder) -> None:
        """Clear the gradient buffer; autograd's own and FSDP's are new tensors and need none."""
        if self._zero == 3 or self._context.autograd_gradients:
            return
        emit = self._context.emitter()
        emit.phase = "gradients"
        precision = self._context.scenario.workload.precision
        emit.kernel(zero_gradients_op(self._parameters, precision))
        builder.place(emit.finish())

    def reduce_exposed(self, builder: ProgramBuilder, chunk: int) -> None:
        """Reduce a chunk's gradients now and wait, where the policy lets nothing overlap it."""
        if self._context.overlaps.reduction.beside:
            return
        emit = self._context.emitter()
        emit.phase = "gradients"
        width = self._context.gradient_width
        buffer = self._copy_bytes(width)
        emit.memory("workspace", buffer)
        for bucket in self.buckets[chunk]:
            frees = self._zero == 2
            scatter = self._zero > 0
            mark = reduce_bucket(
                emit, bucket, self._groups, width, scatter=scatter, beside=False, frees=frees
            )
            emit.wait(mark)
        emit.memory("workspace", -buffer)
        builder.place(emit.finish())

    def _copy_bytes(self, width: GradientWidth) -> float:
        """Bytes of the buffer into which gradients are copied to be reduced: one bucket."""
        if not self._policies.bucket_copies:
            return 0.0
        wanted = self._context.bucket_parameters(whole_chunk=False)
        return min(wanted, self._parameters) * width.reduced_bytes

    def _finish_gradients(self) -> Template:
        """Wait for the reductions; reduce tied embeddings and the norm of all gradients."""
        context = self._context
        emit = context.emitter()
        emit.phase = "gradients"
        self._norm_gradients(emit)
        self._mirrored(emit)
        self._tied_embeddings(emit)
        self._reduced_back(emit)
        precision = context.scenario.workload.precision
        clipping = self._policies.gradient_clipping
        emit.phase = "optimizer"
        for parameters, shards in self._parts:
            size = parameters / shards
            emit.kernels(gradient_ops(size, precision, self._zero, clipping=clipping))
        if not clipping:
            return emit.finish()
        if post_validated(context):
            self._pass_norm_on(emit)
        elif context.mesh.num_ranks > 1:
            comm = Comm("world", "all_reduce", 4.0, "grad norm")
            emit.wait(emit.collective(comm, lane="dp"))
        return emit.finish()

    def _reduced_back(self, emit: Emitter) -> None:
        """Convert this rank's reduced gradients to the format in which they are kept."""
        if self._context.gradient_ranks == 1:
            return
        kept = self._context.gradient_bytes
        if self._zero == 3:
            kept = fsdp_gradient_bytes(self._context.scenario.workload.precision)
        back = GradientWidth(self._context.reduced_bytes, kept, kept)
        if self._context.scenario.workload.precision.reduce is not None:
            for parameters, shards in self._parts:
                emit.kernels(back.casts(parameters / shards))

    def _pass_norm_on(self, emit: Emitter) -> None:
        """Go on with the norm of this stage and those before it; the whole norm comes back later.

        Qi et al. 2024, arXiv:2401.10241, section 4 and appendix C: a stage updates its parameters
        with the norm reduced so far. The whole one is passed from the last stage back to the first
        while the next step fills the pipeline, and an update that it proves wrong is undone, which
        is rare and not played.
        """
        context, stage, last = self._context, self._stage, self._stages - 1
        if context.mesh.num_ranks > self._stages:
            emit.wait(emit.collective(Comm("stage", "all_reduce", 4.0, "grad norm"), lane="dp"))
        known = emit.pending()
        if stage > 0:
            received = emit.message("recv_forward", 4.0, (START,), beside=False)
            emit.wait(received)
            known = (*known, received)
        whole: tuple[Mark, ...] = known
        if stage < last:
            emit.message("send_forward", 4.0, known, beside=False)
            whole = (emit.message("recv_backward", 4.0, (START,), beside=False),)
        if stage > 0:
            emit.message("send_backward", 4.0, whole, beside=False)
        if self._policies.sync == "grad_norm":
            emit.host_wait(*known)

    def _norm_gradients(self, emit: Emitter) -> None:
        """Add up the gradients of norms over the tensor group, each rank having seen its tokens.

        Under sequence parallelism, in one buffer that they are copied into and out of (Megatron-LM,
        core/distributed/finalize_model_grads.py). Under FSDP they are sharded with their layer.
        """
        parallel = self._context.scenario.parallel
        if not parallel.sequence or parallel.tensor == 1 or self._zero == 3:
            return
        elements = sum(
            module.trained
            for chunk in self._chunks
            for _, layer in chunk
            for module in layer.modules
            if any(op.kind == "norm" for op in module.forward)
        )
        if not elements:
            return
        width = self._context.gradient_bytes
        copy = elementwise_op("norm gradients copy", "copy", "fp32", elements, width, width, 0.0)
        emit.kernel(copy)
        comm = Comm("tp", "all_reduce", elements * width, "norm gradients")
        emit.wait(emit.collective(comm))
        emit.kernel(copy)

    def _mirrored(self, emit: Emitter) -> None:
        """Add up the gradients of the two stages that hold the same parts (DualPipe).

        Each rank exchanges what the reduction over data-parallel ranks has left it with.
        """
        if layout_of(self._policies).mirrored:
            held = sum(parameters / shards for parameters, shards in self._parts)
            comm = Comm("mirror", "all_reduce", held * self._context.reduced_bytes, "two ways")
            emit.wait(emit.collective(comm, lane="dp"))

    def _tied_embeddings(self, emit: Emitter) -> None:
        model = self._context.scenario.workload.model
        ends = (0, self._stages - 1)
        if model.family != "transformer" or not model.tied_embeddings or self._stages == 1:
            return
        if layout_of(self._policies).folded_back:
            return  # both ends are on the first stage and share the table
        if self._context.scenario.workload.adapters is not None:
            return
        if self._stage in ends:
            layer = self._chunks[0][0][1] if self._stage == 0 else self._chunks[-1][-1][1]
            table = max(module.parameters for module in layer.modules)
            size = table * self._context.gradient_bytes
            comm = Comm("embedding", "all_reduce", size, "tied embedding reduce")
            emit.wait(emit.collective(comm, START, lane="dp"))

    def _update(self) -> Template:
        """The optimizer step on this rank's shard."""
        emit = self._context.emitter()
        emit.phase = "optimizer"
        precision = self._context.scenario.workload.precision
        width = updated_gradient_bytes(precision, self._zero)
        converted = width * sum(parameters / shards for parameters, shards in self._parts)
        # Given back in the same place: a step may be cut right behind its update.
        emit.memory("workspace", converted)
        emit.memory("workspace", -converted)
        fused = self._context.scenario.kernels.fused_optimizer
        for parameters, shards in self._parts:
            if self._policies.gradient_clipping:
                emit.kernel(clip_op(parameters / shards, precision, self._zero))
            emit.kernels(optimizer_ops(parameters, shards, precision, self._zero, fused=fused))
        return emit.finish()


def clean_cut(context: Context) -> bool:
    """Whether the end of the gradient-norm all-reduce is a state that repeats exactly.

    It joins all ranks, and where the host reads the norm back every device is idle and every host
    has just begun to issue the optimizer step. A run that starts there is periodic from its first
    step; any other plan plays a warm-up step.
    """
    policies = context.scenario.policies
    joined = policies.gradient_clipping and not post_validated(context)
    return joined and policies.sync == "grad_norm"


def post_validated(context: Context) -> bool:
    """Whether stages update their parameters before the norm of all gradients is known."""
    policies = context.scenario.policies
    chosen = policies.post_validation
    wanted = policies.schedule in ZERO_BUBBLE if chosen == "auto" else chosen
    piped = context.scenario.parallel.pipeline > 1
    return wanted and piped and policies.gradient_clipping
