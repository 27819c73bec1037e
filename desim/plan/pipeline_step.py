"""One training step of a pipeline stage: gathers, passes, reductions, optimizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from desim.models.op import Comm
from desim.models.optimizer import grad_norm_op, optimizer_ops, zero_gradients_op
from desim.models.width import element_bytes
from desim.plan.buckets import (
    AwaitBuckets,
    ReduceBuckets,
    gather_bucket,
    gathered,
    make_buckets,
    reduce_bucket,
)
from desim.plan.fsdp import ShardLayers
from desim.plan.passes import Hooks, PassPolicy, backward_pass, exposed, forward_pass
from desim.plan.pipeline import Messages
from desim.plan.program import Program, ProgramBuilder
from desim.plan.schedules import SCHEDULES
from desim.plan.schedules.passes import Pass
from desim.plan.stages import Chunk, split_layers
from desim.plan.tables import LANE
from desim.plan.template import START

if TYPE_CHECKING:
    from desim.plan.buckets import Bucket
    from desim.plan.context import Context
    from desim.plan.template import Emitter, Mark, Template


def pipeline_programs(context: Context) -> list[Program]:
    """Build one program per pipeline stage."""
    cache: dict[tuple[object, ...], Template] = {}
    stages = stage_chunks(context)
    return [StageStep(context, stage, held, cache).program() for stage, held in enumerate(stages)]


def stage_chunks(context: Context) -> list[list[Chunk]]:
    """Model chunks of every stage."""
    scenario = context.scenario
    interleaved = scenario.policies.schedule == "interleaved"
    chunks = scenario.parallel.virtual_stages if interleaved else 1
    return split_layers(context.layers, scenario.parallel, chunks)


class StageStep:
    """Builds the program of one stage; passes that stages have in common are written once."""

    def __init__(
        self,
        context: Context,
        stage: int,
        chunks: list[Chunk],
        cache: dict[tuple[object, ...], Template],
    ) -> None:
        self._context = context
        self._stage = stage
        self._chunks = chunks
        self._cache = cache
        scenario = context.scenario
        self._policies = scenario.policies
        self._zero = scenario.parallel.zero
        self._stages = scenario.parallel.pipeline
        self._sharded = self._zero == 3
        self._policy = PassPolicy(self._policies.overlap.tensor, self._policies.recompute)
        self._reduces = context.gradient_ranks > 1
        self._buckets = [self._make_buckets(chunk) for chunk in chunks]
        self._gathered: list[dict[str, tuple[Mark, ...]]] = [{} for _ in chunks]
        self._last_micro_batch = context.micro_batches - 1

    def _make_buckets(self, chunk: Chunk) -> list[Bucket]:
        if self._sharded or not self._reduces:
            return []
        wanted = self._policies.bucket_bytes / self._context.gradient_bytes
        pad = self._zero > 0
        return make_buckets(chunk, wanted, self._context.gradient_ranks, pad=pad)

    @property
    def _parameters(self) -> int:
        return sum(layer.parameters for chunk in self._chunks for _, layer in chunk)

    def program(self) -> Program:
        """Build the program: what precedes the measured steps, then the steps."""
        builder = ProgramBuilder()
        update = self._update()
        run = self._context.scenario.run
        if clean_cut(self._context):
            builder.place(update)
            builder.cut()
            steps = run.steps
        else:
            steps = run.steps + 1
        for _ in range(steps):
            self._step(builder, update)
            builder.cut()
        return builder.build()

    def _step(self, builder: ProgramBuilder, update: Template) -> None:
        self._zero_gradients(builder)
        self._gather(builder)
        chunks, stages = len(self._chunks), self._stages
        schedule = SCHEDULES[self._policies.schedule]
        order = schedule(self._stage, stages, self._context.micro_batches, chunks)
        messages = self._messages()
        parts = [(item, item.chunk * stages + self._stage) for item in order]
        messages.run(builder, parts, lambda item: self._place(builder, item))
        self._reduce_after(builder)
        builder.wait([builder.now(LANE["dp"])])
        builder.place(self._finish_gradients())
        if self._policies.sync == "grad_norm" and self._policies.gradient_clipping:
            builder.synchronize()
        builder.place(update)
        if self._policies.sync == "step":
            builder.synchronize()

    @property
    def _activation_bytes(self) -> float:
        """Size of a micro-batch's activation between layers, over the whole tensor group."""
        scenario = self._context.scenario
        workload = scenario.workload
        assert workload.model.family == "transformer"
        tokens = workload.micro_batch * workload.sequence_length // scenario.parallel.context
        return tokens * workload.model.hidden * element_bytes(workload.precision.compute)

    def _receives(self, number: int, *, first: bool) -> bool:
        """Whether chunk `number` receives its activation (or, not `first`, its gradient)."""
        end = 0 if first else self._stages * len(self._chunks) - 1
        return number * self._stages + self._stage != end

    def _join_parts(self, emit: Emitter, number: int, *, first: bool) -> None:
        """Gather a received activation that was sent in parts and is needed whole.

        Under sequence parallelism it is needed in parts; else each tensor rank has received its
        part (Megatron-LM's scatter-gather, Narayanan et al. 2021, section 4.1).
        """
        parallel = self._context.scenario.parallel
        split = self._policies.split_p2p and not parallel.sequence and parallel.tensor > 1
        if split and self._receives(number, first=first):
            emit.phase = "forward" if first else "backward"
            size = self._activation_bytes
            exposed(emit, [Comm("tp", "all_gather", size, "received parts")])

    def _messages(self) -> Messages:
        """The stage's messages; an activation is split over the tensor group where it may be."""
        parallel = self._context.scenario.parallel
        split = parallel.sequence or self._policies.split_p2p
        size = self._activation_bytes / (parallel.tensor if split else 1)
        return Messages(
            self._context.emitter,
            size,
            self._policies.overlap.pipeline,
            self._stages * len(self._chunks),
            interleaved=self._policies.schedule == "interleaved",
        )

    def _place(self, builder: ProgramBuilder, item: Pass) -> None:
        first = self._chunks[item.chunk][0][0]
        if self._sharded:
            template = self._whole()
            if item.kind == "forward":
                builder.place(template, item.micro_batch, layer_offset=first)
            return
        overlap = self._policies.overlap
        gathers = overlap.param_gather == "prefetch" and self._zero in (1, 2)
        reduces = overlap.grad_reduce == "bucketed"
        due = item.micro_batch == self._last_micro_batch or self._zero == 2
        marks = None
        if item.kind == "forward":
            awaits = gathers and item.micro_batch == 0
            template = self._forward(item.chunk, awaits=awaits)
            marks = self._gathered[item.chunk] if awaits else None
        else:
            template = self._backward(item.chunk, reduces=reduces and due)
        builder.place(template, item.micro_batch, marks, layer_offset=first)

    def _key(self, chunk: Chunk, *flavour: object) -> tuple[object, ...]:
        return (tuple(id(layer) for _, layer in chunk), *flavour)

    def _forward(self, number: int, *, awaits: bool) -> Template:
        chunk, buckets = self._chunks[number], self._buckets[number]
        key = self._key(chunk, "forward", awaits, self._receives(number, first=True))
        if key not in self._cache:
            hooks: list[Hooks] = []
            if awaits:
                hooks.append(AwaitBuckets(buckets))
            emit = self._context.emitter()
            self._join_parts(emit, number, first=True)
            forward_pass(emit, _numbered_from_zero(chunk), self._policy, hooks)
            self._cache[key] = emit.finish(self._context.graph_launch_ps)
        return self._cache[key]

    def _backward(self, number: int, *, reduces: bool) -> Template:
        chunk, buckets = self._chunks[number], self._buckets[number]
        key = self._key(chunk, "backward", reduces, self._receives(number, first=False))
        if key not in self._cache:
            hooks: list[Hooks] = []
            if reduces and buckets:
                hooks.append(ReduceBuckets(buckets, self._collective, self._context.gradient_bytes))
            emit = self._context.emitter()
            self._join_parts(emit, number, first=False)
            backward_pass(emit, _numbered_from_zero(chunk), self._policy, hooks)
            self._cache[key] = emit.finish(self._context.graph_launch_ps)
        return self._cache[key]

    @property
    def _collective(self) -> str:
        return "reduce_scatter" if self._zero else "all_reduce"

    def _whole(self) -> Template:
        """Forward and backward of one micro-batch under FSDP, which gathers across both."""
        chunk = self._chunks[0]
        key = self._key(chunk, "whole")
        if key not in self._cache:
            context = self._context
            hook = ShardLayers(
                chunk,
                self._policies.fsdp,
                context.parameter_bytes,
                context.gradient_bytes,
                reduce=self._reduces,
            )
            hooks = [hook] if self._reduces else []
            emit = context.emitter()
            forward_pass(emit, _numbered_from_zero(chunk), self._policy, hooks)
            backward_pass(emit, _numbered_from_zero(chunk), self._policy, hooks)
            self._cache[key] = emit.finish()
        return self._cache[key]

    def _zero_gradients(self, builder: ProgramBuilder) -> None:
        """Clear the gradient buffer; under FSDP gradients are new tensors and need none."""
        if self._sharded:
            return
        emit = self._context.emitter()
        emit.phase = "gradients"
        precision = self._context.scenario.workload.precision
        emit.kernel(zero_gradients_op(self._parameters, precision))
        builder.place(emit.finish())

    def _gather(self, builder: ProgramBuilder) -> None:
        """Issue the gathers of all parameters; without prefetch compute waits for every one."""
        if self._zero not in (1, 2):
            return
        beside = self._policies.overlap.param_gather == "prefetch"
        emit = self._context.emitter()
        for chunk, buckets in enumerate(self._buckets):
            for number in reversed(range(len(buckets))):
                size = self._context.parameter_bytes
                mark = gather_bucket(emit, buckets[number], size, START, beside=beside)
                emit.output(f"{chunk} {gathered(number)}", mark)
                if not beside:
                    emit.wait(mark)
        marks = builder.place(emit.finish())
        self._gathered = [
            {gathered(i): marks[f"{chunk} {gathered(i)}"] for i in range(len(buckets))}
            for chunk, buckets in enumerate(self._buckets)
        ]

    def _reduce_after(self, builder: ProgramBuilder) -> None:
        """Reduce all gradients after the last backward pass, where nothing overlaps it."""
        if self._policies.overlap.grad_reduce != "none" or self._sharded or self._zero == 2:
            return
        emit = self._context.emitter()
        emit.phase = "gradients"
        for buckets in reversed(self._buckets):
            for bucket in buckets:
                size = self._context.gradient_bytes
                emit.wait(reduce_bucket(emit, bucket, self._collective, size, beside=False))
        builder.place(emit.finish())

    def _finish_gradients(self) -> Template:
        """Wait for the reductions; reduce tied embeddings and the norm of all gradients."""
        context = self._context
        emit = context.emitter()
        emit.phase = "gradients"
        self._tied_embeddings(emit)
        if not self._policies.gradient_clipping:
            return emit.finish()
        precision = context.scenario.workload.precision
        shards = context.gradient_ranks if self._zero else 1
        emit.phase = "optimizer"
        emit.kernel(grad_norm_op(self._parameters / shards, precision))
        if context.mesh.num_ranks > 1:
            comm = Comm("world", "all_reduce", 4.0, "grad norm")
            emit.wait(emit.collective(comm, lane="dp"))
        return emit.finish()

    def _tied_embeddings(self, emit: Emitter) -> None:
        model = self._context.scenario.workload.model
        ends = (0, self._stages - 1)
        if model.family != "transformer" or not model.tied_embeddings or self._stages == 1:
            return
        if self._stage in ends:
            layer = self._chunks[0][0][1] if self._stage == 0 else self._chunks[-1][-1][1]
            table = max(module.parameters for module in layer.modules)
            size = table * self._context.gradient_bytes
            comm = Comm("embedding", "all_reduce", size, "tied embedding reduce")
            emit.wait(emit.collective(comm, START, lane="dp"))

    def _update(self) -> Template:
        """The optimizer step on this rank's shard."""
        context = self._context
        emit = context.emitter()
        emit.phase = "optimizer"
        shards = context.gradient_ranks if self._zero else 1
        precision = context.scenario.workload.precision
        emit.kernels(optimizer_ops(self._parameters, shards, precision, self._zero))
        return emit.finish()


def clean_cut(context: Context) -> bool:
    """Whether the end of the gradient-norm all-reduce is a state that repeats exactly.

    It joins all ranks, and where the host reads the norm back every device is idle and every host
    has just begun to issue the optimizer step. A run that starts there is periodic from its first
    step; any other plan plays a warm-up step.
    """
    policies = context.scenario.policies
    return policies.gradient_clipping and policies.sync == "grad_norm"


def _numbered_from_zero(chunk: Chunk) -> Chunk:
    """The chunk with layers numbered from its first, so that equal chunks share a template."""
    first = chunk[0][0]
    return tuple((number - first, layer) for number, layer in chunk)
