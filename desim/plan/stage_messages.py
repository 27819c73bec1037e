"""What one pipeline stage sends and receives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from desim.models.op import Comm
from desim.models.width import element_bytes
from desim.plan.passes import exposed
from desim.plan.pipeline import Messages
from desim.plan.schedules import layout_of
from desim.plan.schedules.passes import Pass, part_of

if TYPE_CHECKING:
    from desim.plan.context import Context
    from desim.plan.template import Emitter


class StageMessages:
    """The messages of a stage with a number of model chunks."""

    def __init__(self, context: Context, stage: int, chunks: int) -> None:
        self._context = context
        self._stage = stage
        self._chunks = chunks
        self._policies = context.scenario.policies
        self._stages = context.scenario.parallel.pipeline
        self._layout = layout_of(self._policies)
        self._received: dict[tuple[int, bool], bool] = {}

    def part(self, number: int) -> int:
        """Part of the model that chunk `number` of this stage is."""
        return part_of(self._stage, self._stages, number, folded_back=self._layout.folded_back)

    @property
    def _activation_bytes(self) -> float:
        """Size of a micro-batch's activation between layers, over the whole tensor group."""
        scenario = self._context.scenario
        workload = scenario.workload
        assert workload.model.family == "transformer"
        tokens = workload.micro_batch * workload.sequence_length // scenario.parallel.context
        return tokens * workload.model.hidden * element_bytes(workload.precision.compute)

    @property
    def size_bytes(self) -> float:
        """Size of a message; an activation is split over the tensor group where it may be."""
        parallel = self._context.scenario.parallel
        split = parallel.sequence or self._policies.split_p2p
        return self._activation_bytes / (parallel.tensor if split else 1)

    def of_step(self) -> Messages:
        """The messages of one step."""
        return Messages(
            self._context.emitter,
            self.size_bytes,
            self._policies.overlap.pipeline,
            self._stages * self._chunks,
            free_sends=self._layout.split or self._layout.chunks or not self._layout.repeats,
            turn=self._stages if self._layout.folded_back else None,
            ahead=self._policies.overlap.receive_ahead,
        )

    def receives(self, number: int, *, first: bool) -> bool:
        """Whether chunk `number` receives its activation (or, not `first`, its gradient)."""
        if (number, first) not in self._received:
            item = Pass("forward" if first else "backward", 0, number)
            received = self.of_step().receives(item, self.part(number))
            self._received[number, first] = bool(received)
        return self._received[number, first]

    def join_parts(self, emit: Emitter, number: int, *, first: bool) -> None:
        """Gather a received activation that was sent in parts and is needed whole.

        Under sequence parallelism it is needed in parts; else each tensor rank has received its
        part (Megatron-LM's scatter-gather, Narayanan et al. 2021, section 4.1).
        """
        parallel = self._context.scenario.parallel
        split = self._policies.split_p2p and not parallel.sequence and parallel.tensor > 1
        if split and self.receives(number, first=first):
            emit.phase = "forward" if first else "backward"
            exposed(emit, [Comm("tp", "all_gather", self._activation_bytes, "received parts")])
