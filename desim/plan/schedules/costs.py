"""What passes cost, and when every stage plays the passes of its order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from desim.plan.schedules.passes import part_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from desim.plan.schedules.passes import Kind, Pass


@dataclass(frozen=True, slots=True)
class Costs:
    """Times and memory of the passes of a pipeline; rows are stages, columns their chunks.

    `kept` is the memory that a backward pass leaves until the weight gradients are done, over that
    of the forward pass before it. `message_s` is the time of a message between neighbours.
    """

    forward_s: tuple[tuple[float, ...], ...]
    backward_s: tuple[tuple[float, ...], ...]
    weight_s: tuple[tuple[float, ...], ...]
    kept: tuple[tuple[float, ...], ...]
    message_s: float
    folded_back: bool = False

    @property
    def stages(self) -> int:
        """Stages of the pipeline."""
        return len(self.forward_s)

    @property
    def chunks(self) -> int:
        """Model chunks of a stage."""
        return len(self.forward_s[0])

    def uniform(self, forward_s: float, backward_s: float, weight_s: float, kept: float) -> Costs:
        """Return the same pipeline with equal stages and messages that take no time."""
        forward, backward, weight, share = (
            ((value,) * self.chunks,) * self.stages
            for value in (forward_s, backward_s, weight_s, kept)
        )
        return Costs(forward, backward, weight, share, 0.0, self.folded_back)

    def seconds(self, kind: Kind, stage: int, chunk: int) -> float:
        """How long one pass takes."""
        table = {"forward": self.forward_s, "backward": self.backward_s, "weight": self.weight_s}
        return table[kind][stage][chunk]

    def part(self, stage: int, chunk: int) -> int:
        """Part of the model that a chunk of a stage is."""
        return part_of(stage, self.stages, chunk, folded_back=self.folded_back)


@dataclass(frozen=True, slots=True)
class Played:
    """When each stage begins its first pass and ends its last, in seconds."""

    begin_s: tuple[float, ...]
    end_s: tuple[float, ...]

    @property
    def longest_s(self) -> float:
        """Longest time from a stage's first pass to its last: the step, where stages overlap it."""
        return max(end - begin for begin, end in zip(self.begin_s, self.end_s, strict=True))

    @property
    def whole_s(self) -> float:
        """From the first pass of all to the last: the step, where stages end it together."""
        return max(self.end_s) - min(self.begin_s)


def play_orders(
    orders: Sequence[Sequence[Pass]], costs: Costs, start_s: Sequence[float] | None = None
) -> Played:
    """Play every stage's order, each pass as soon as its input is there.

    `start_s` says when each stage is free. Raises ValueError where orders wait in a circle.
    """
    stages, last = costs.stages, costs.stages * costs.chunks - 1
    free = list(start_s) if start_s is not None else [0.0] * stages
    begin: list[float | None] = [None] * stages
    done: dict[tuple[str, int, int], tuple[float, int]] = {}
    at, waiting = [0] * stages, {}
    todo = list(range(stages))
    while todo:
        stage = todo.pop()
        order = orders[stage]
        while at[stage] < len(order):
            kind, micro_batch, chunk = order[at[stage]]
            part = costs.part(stage, chunk)
            ready = 0.0
            if kind != "weight" and part != (0 if kind == "forward" else last):
                needed = (kind, micro_batch, part + (-1 if kind == "forward" else 1))
                if needed not in done:
                    waiting[needed] = stage
                    break
                ended, source = done[needed]
                ready = ended + (costs.message_s if source != stage else 0.0)
            starts = max(free[stage], ready)
            if begin[stage] is None:
                begin[stage] = starts
            free[stage] = starts + costs.seconds(kind, stage, chunk)
            at[stage] += 1
            key = (kind, micro_batch, part)
            done[key] = (free[stage], stage)
            if key in waiting:
                todo.append(waiting.pop(key))
    if any(count < len(order) for count, order in zip(at, orders, strict=True)):
        raise ValueError("the orders of the stages wait for each other in a circle")
    return Played(tuple(b or 0.0 for b in begin), tuple(free))
