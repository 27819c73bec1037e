"""One training step of a pipeline stage: its passes in the order of the schedule."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from desim.plan.accumulation import AddGradients
from desim.plan.buckets import ReduceBuckets, WholeGradients
from desim.plan.fsdp import Accumulation, ShardLayers
from desim.plan.joined import joined
from desim.plan.low_precision import CastWeights, ReduceAmax
from desim.plan.orders import make_orders
from desim.plan.passes import Hooks, PassPolicy, backward_pass, forward_pass, restore_pass
from desim.plan.program import Program, ProgramBuilder, Strand
from desim.plan.recompute import Recompute
from desim.plan.repeat import repeat_of, shorten
from desim.plan.schedules import layout_of
from desim.plan.stage_messages import StageMessages
from desim.plan.stages import Chunk, numbered_from_zero, split_layers
from desim.plan.step_ends import StepEnds, clean_cut
from desim.plan.ways import Way, adding, way_of
from desim.plan.weight_pass import weight_pass
from desim.spec.joined import exchanges, joins_passes
from desim.spec.recompute import restored_blocks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from desim.plan.context import Context
    from desim.plan.repeat import Position, Shortened
    from desim.plan.schedules.passes import Kind, Pass
    from desim.plan.template import Mark, Template


def pipeline_programs(context: Context) -> list[Program]:
    """Build one program per pipeline stage, for each kind of rank.

    All kinds play the order that suits the first, the busiest.
    """
    cache: dict[tuple[object, ...], Template] = {}
    steps = [
        StageStep(kind, stage, held, cache)
        for kind in context.kinds
        for stage, held in enumerate(stage_chunks(kind))
    ]
    costed = [step.late().costed() for step in steps[: context.scenario.parallel.pipeline]]
    orders, warm_up = make_orders(context, costed, steps[0].messages.size_bytes)
    lengths = (1, context.scenario.parallel.pipeline)
    kept, count = context.kept_repeats, context.micro_batches
    if not layout_of(context.scenario.policies).repeats:
        kept = None
    short = shorten(orders, count, lengths, kept) if kept is not None else None
    if short is None:
        every = orders * (len(context.others) + 1)
        return [step.program(order, warm_up) for step, order in zip(steps, every, strict=True)]
    return [step.shortened(short, warm_up) for step in steps]


def stage_chunks(context: Context) -> list[list[Chunk]]:
    """Model chunks of every stage."""
    scenario = context.scenario
    layout = layout_of(scenario.policies)
    back, mirrored = layout.folded_back, layout.mirrored
    chunks = 2 if mirrored else scenario.parallel.virtual_stages if layout.chunks else 1
    return split_layers(
        context.layers, scenario.parallel, chunks, folded_back=back, mirrored=mirrored
    )


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
        self._split = layout_of(self._policies).split
        self.messages = StageMessages(context, stage, len(chunks))
        self._joins = joins_passes(scenario)
        recompute = Recompute(
            self._policies.recompute,
            self._policies.recompute_modules,
            self._policies.recompute_layers,
            self._policies.recompute_early_stop,
        )
        overlaps = context.overlaps
        self._reduces_beside = overlaps.reduction.beside
        self._policy = PassPolicy(overlaps.tensor.beside, recompute, self._zero == 3)
        ahead = replace(recompute, restored=restored_blocks(scenario))
        self._ahead = replace(self._policy, recompute=ahead)
        delays = self._policies.experts.delay_wgrad and exchanges(scenario)
        self._weights: Literal["at_once", "delayed"] = "delayed" if delays else "at_once"
        self._ends = StepEnds(context, stage, chunks)
        self._layers_of = [tuple(id(layer) for _, layer in chunk) for chunk in chunks]
        self._ways: dict[int, Way] = {}
        self._positions: list[list[Position]] | None = None

    def program(self, order: Sequence[Pass], warm_up: int) -> Program:
        """Build the program: `warm_up` steps before the measured ones, then these.

        Where a step ends in a state that repeats, its end is enough.
        """
        builder = ProgramBuilder()
        self._ways = {number: way_of(order, number) for number in range(len(self._chunks))}
        if clean_cut(self._context):
            self._ends.update(builder)
        else:
            for _ in range(warm_up):
                self._step(builder, order)
        builder.cut()
        for _ in range(self._context.scenario.run.steps):
            self._step(builder, order)
            builder.cut()
        return builder.build()

    def shortened(self, short: Shortened, warm_up: int) -> Program:
        """Build the program of an order that some periods were left out of."""
        self._positions = []
        program = self.program(short.orders[self._stage], warm_up)
        stretch = short.stretches[self._stage]
        repeats = [repeat_of(positions, stretch) for positions in self._positions]
        found = tuple(repeat for repeat in repeats if repeat is not None)
        repeats_all = found if len(found) == len(repeats) else ()
        return replace(program, repeats=repeats_all, left_out=short.left_out)

    def late(self) -> StageStep:
        """The same where nothing is recomputed before its gradient is there."""
        if not self._ahead.recompute.restored:
            return self
        step = copy(self)
        step._ahead, step._cache = self._policy, {}
        return step

    def costed(self) -> list[dict[Kind, Template]]:
        """The passes of each chunk, for schedules that go by what they cost; else nothing.

        The backward pass of one of two chunks is joined with the forward pass of the other.
        """
        if not self._split:
            return []
        passes: list[dict[Kind, Template]] = [
            {
                "forward": self._forward(number, awaits=False, fresh=False),
                "backward": self._backward(number, reduces=False, adds=False),
                "weight": self._weight(number, reduces=False, adds=False),
            }
            for number in range(len(self._chunks))
        ]
        if self._joins:
            for number, (known, other) in enumerate(zip(passes, reversed(passes), strict=True)):
                whole = self._backward(number, reduces=False, adds=False, whole=True)
                known["joined"] = self._both(whole, other["forward"])
        return passes

    def _step(self, builder: ProgramBuilder, order: Sequence[Pass]) -> None:
        self._ends.begin(builder)
        part_of_chunk = [self.messages.part(number) for number in range(len(self._chunks))]
        parts = [(item, part_of_chunk[item.chunk]) for item in order]
        positions: list[Position] = []
        if self._positions is not None:
            self._positions.append(positions)

        def place(turn: Sequence[Pass]) -> None:
            if len(turn) > 1 and self._joins:
                positions.append(builder.position)
                self._place_joined(builder, *turn)
                positions.append(builder.position)
                return
            for item in turn:
                positions.append(builder.position)
                self._place(builder, item)

        prepare = self._restore if self._ahead.recompute.restored else None
        self.messages.of_step(prepare).run(builder, parts, place)
        self._ends.end(builder)

    def _restore(self, builder: ProgramBuilder, item: Pass) -> None:
        """Place what a backward pass runs again before the gradient that it waits for is there."""
        number = item.chunk
        if item.kind in ("forward", "weight") or not self.messages.receives(number, first=False):
            return
        key, chunk = self._key(number, "restore"), self._chunks[number]
        if key not in self._cache:
            emit = self._context.emitter()
            restore_pass(emit, numbered_from_zero(chunk), self._ahead)
            self._cache[key] = emit.finish(self._context.graph_launch_ps)
        builder.place(self._cache[key], item.micro_batch, layer_offset=chunk[0][0])

    def _place(self, builder: ProgramBuilder, item: Pass) -> None:
        first = self._chunks[item.chunk][0][0]
        if self._zero == 3:
            if item.kind == "forward":
                builder.place(self._whole(item.micro_batch), item.micro_batch, layer_offset=first)
            return
        template, marks = self._pass(item)
        builder.place(template, item.micro_batch, marks, layer_offset=first)
        self._reduce_every(builder, item)

    def _place_joined(self, builder: ProgramBuilder, forward: Pass, backward: Pass) -> None:
        """Place both passes as one, whose kernels take turns.

        The backward pass goes first: its first exchange runs beside the forward pass's attention.
        """
        (ahead, marks), (back, _) = self._pass(forward), self._pass(backward)
        first, second = (self._chunks[item.chunk][0][0] for item in (backward, forward))
        builder.place(
            self._both(back, ahead),
            backward.micro_batch,
            marks,
            layer_offset=first,
            other=Strand(forward.micro_batch, second),
        )
        self._reduce_every(builder, backward)

    def _both(self, back: Template, ahead: Template) -> Template:
        """Two passes as one."""
        key = ("joined", id(back), id(ahead))
        if key not in self._cache:
            self._cache[key] = joined(back, ahead, self._context.tables)
        return self._cache[key]

    def _reduce_every(self, builder: ProgramBuilder, item: Pass) -> None:
        """Reduce the gradients of a pass at once where the policies ask for it."""
        if self._ends.every_micro_batch and item.kind in adding(split=self._split):
            self._ends.reduce_exposed(builder, item.chunk)

    def _pass(self, item: Pass) -> tuple[Template, dict[str, tuple[Mark, ...]] | None]:
        """The template of a pass, with the marks that it waits for."""
        way, gathers = self._ways[item.chunk], self._ends.gathers
        if item.kind == "forward":
            awaits = item.micro_batch == way.first and gathers.awaited
            template = self._forward(item.chunk, awaits=awaits, fresh=self._fresh(item))
            return template, gathers.marks[item.chunk] if awaits else None
        every = self._ends.every_micro_batch
        due = item.micro_batch == way.last_added or every
        reduces = due and self._reduces_beside
        adds = item.micro_batch != way.first_added
        adds = adds and self._zero < 2 and self._context.autograd_gradients
        if item.kind == "weight":
            return self._weight(item.chunk, reduces=reduces, adds=adds), None
        if self._split and item.kind == "backward":
            return self._backward(item.chunk, reduces=False, adds=False), None
        return self._backward(item.chunk, reduces=reduces, adds=adds, whole=True), None

    def _key(self, number: int, *flavour: object) -> tuple[object, ...]:
        return (self._layers_of[number], *flavour)

    def _fresh(self, item: Pass) -> bool:
        """Whether weights have to be quantised for this pass."""
        first = item.micro_batch == self._ways[item.chunk].first
        return first and self._context.recipe is not None

    def _low_precision(self, chunk: Chunk) -> list[Hooks]:
        """What a low-precision recipe adds to a pass over layers with new weights."""
        context = self._context
        if context.recipe is None or not context.recipe.engine:
            return []
        kept = context.recipe.weight_copies_bytes if self._zero == 3 else 0.0
        return [CastWeights(chunk, kept), *self._amax(chunk)]

    def _amax(self, chunk: Chunk) -> list[Hooks]:
        context = self._context
        if context.recipe is None or context.recipe.name != "delayed":
            return []
        return [ReduceAmax(chunk, context.mesh.num_ranks // self._stages)]

    def _forward(self, number: int, *, awaits: bool, fresh: bool) -> Template:
        chunk, shares = self._chunks[number], self._ends.gathers.shares[number]
        received = self.messages.receives(number, first=True)
        key = self._key(number, "forward", awaits, fresh, len(shares), received)
        if key not in self._cache:
            hooks: list[Hooks] = []
            if awaits:
                hooks.append(self._ends.gathers.hook(number))
            hooks.extend(self._low_precision(chunk) if fresh else self._amax(chunk))
            emit = self._context.emitter()
            self.messages.join_parts(emit, number, first=True)
            forward_pass(emit, numbered_from_zero(chunk), self._policy, hooks)
            self._cache[key] = emit.finish(self._context.graph_launch_ps)
        return self._cache[key]

    def _backward(self, number: int, *, reduces: bool, adds: bool, whole: bool = False) -> Template:
        chunk, buckets = self._chunks[number], self._ends.buckets[number]
        received = self.messages.receives(number, first=False)
        split = self._split and not whole
        key = self._key(number, "backward", split, reduces, adds, len(buckets), received)
        if key not in self._cache:
            hooks = [*self._gradient_hooks(number, reduces=reduces, adds=adds), *self._amax(chunk)]
            emit = self._context.emitter()
            self.messages.join_parts(emit, number, first=False)
            policy = self._ahead if received else self._policy
            policy = replace(policy, weights="own_pass" if split else self._weights)
            backward_pass(emit, numbered_from_zero(chunk), policy, hooks)
            self._cache[key] = emit.finish(self._context.graph_launch_ps)
        return self._cache[key]

    def _weight(self, number: int, *, reduces: bool, adds: bool) -> Template:
        chunk = self._chunks[number]
        key = self._key(number, "weight", reduces, adds, len(self._ends.buckets[number]))
        if key not in self._cache:
            hooks = self._gradient_hooks(number, reduces=reduces, adds=adds)
            emit = self._context.emitter()
            beside = self._policy.beside
            weight_pass(emit, numbered_from_zero(chunk), hooks, overlap=beside)
            self._cache[key] = emit.finish(self._context.graph_launch_ps)
        return self._cache[key]

    def _gradient_hooks(self, number: int, *, reduces: bool, adds: bool) -> list[Hooks]:
        """What the data-parallel layout does as the gradients of a chunk are finished."""
        chunk, buckets = self._chunks[number], self._ends.buckets[number]
        zero = self._zero
        hooks: list[Hooks] = []
        if adds:
            hooks.append(AddGradients(chunk, self._context.gradient_bytes))
        if zero == 2 and buckets:
            hooks.append(WholeGradients(chunk, buckets, self._context.gradient_bytes))
        if reduces and buckets:
            width, groups = self._context.gradient_width, self._context.data_groups
            hooks.append(ReduceBuckets(buckets, groups, width, scatter=zero > 0, frees=zero == 2))
        return hooks

    def _whole(self, micro_batch: int) -> Template:
        """Forward and backward of one micro-batch under FSDP, which gathers across both."""
        chunk = self._chunks[0]
        every = self._policies.fsdp.reduce_every_micro_batch
        accumulation = Accumulation(
            first=every or micro_batch == self._ways[0].first,
            last=every or micro_batch == self._ways[0].last_added,
        )
        key = self._key(0, "whole", accumulation)
        if key not in self._cache:
            context = self._context
            hooks: list[Hooks] = []
            if context.gradient_ranks > 1:
                fsdp, gathered = self._policies.fsdp, context.gathered_bytes
                width, groups = context.gradient_width, context.data_groups
                hooks.append(ShardLayers(chunk, fsdp, groups, gathered, width, accumulation))
            if not accumulation.first and context.autograd_gradients:
                hooks.insert(0, AddGradients(chunk, context.gradient_bytes))
            hooks.extend(self._low_precision(chunk))
            emit = context.emitter()
            forward_pass(emit, numbered_from_zero(chunk), self._policy, hooks)
            backward_pass(emit, numbered_from_zero(chunk), self._policy, hooks)
            self._cache[key] = emit.finish()
        return self._cache[key]
