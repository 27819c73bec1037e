"""What passes cost, and when every stage plays the passes of its order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from desim.plan.schedules.passes import KINDS, part_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from desim.plan.schedules.passes import Kind, Pass

_NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Costs:
    """Times and memory of the passes of a pipeline; rows are stages, columns their chunks.

    `kept` is the memory that a backward pass leaves until the weight gradients are done, over that
    of the forward pass before it. `message_s` is the time of a message between neighbours.
    `mirrored`: the second chunks are a second pipeline, from the last stage to the first.
    """

    forward_s: tuple[tuple[float, ...], ...]
    backward_s: tuple[tuple[float, ...], ...]
    weight_s: tuple[tuple[float, ...], ...]
    kept: tuple[tuple[float, ...], ...]
    message_s: float
    folded_back: bool = False
    mirrored: bool = False

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
        return Costs(forward, backward, weight, share, 0.0, self.folded_back, self.mirrored)

    def seconds(self, kind: Kind, stage: int, chunk: int) -> float:
        """How long one pass takes."""
        if kind == "whole":
            return self.backward_s[stage][chunk] + self.weight_s[stage][chunk]
        table = {"forward": self.forward_s, "backward": self.backward_s, "weight": self.weight_s}
        return table[kind][stage][chunk]

    def part(self, stage: int, chunk: int) -> int:
        """Part of the model that a chunk of a stage is."""
        return part_of(stage, self.stages, chunk, folded_back=self.folded_back)

    def neighbour(self, part: int, ahead: int) -> int | None:
        """Return the part that is `ahead` of another in the model (1, -1), or None for no other."""
        other = part + ahead
        ends = self.mirrored and other // self.stages != part // self.stages
        return other if ahead and 0 <= other < self.stages * self.chunks and not ends else None


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
    steps = _steps(orders, costs)
    stages = costs.stages
    free = list(start_s) if start_s is not None else [0.0] * stages
    begin: list[float | None] = [None] * stages
    at, todo = [0] * stages, list(range(stages))
    stalled: list[tuple[list[float], int] | None] = [None] * stages
    while todo:
        stage = todo.pop()
        order, rows = orders[stage], steps[stage]
        while at[stage] < len(order):
            kind, micro_batch, chunk = order[at[stage]]
            step = rows[kind][chunk]
            starts = free[stage]
            if step.needs is not None:
                ready = step.needs[micro_batch] + step.way_s
                if ready == _NEVER:
                    stalled[stage] = (step.needs, micro_batch)
                    break
                starts = ready if ready > starts else starts
            if begin[stage] is None:
                begin[stage] = starts
            free[stage] = step.makes[micro_batch] = starts + step.seconds
            at[stage] += 1
            waits = stalled[step.goes_to]
            if waits is not None and waits[0] is step.makes and waits[1] == micro_batch:
                stalled[step.goes_to] = None
                todo.append(step.goes_to)
    if any(count < len(order) for count, order in zip(at, orders, strict=True)):
        raise ValueError("the orders of the stages wait for each other in a circle")
    return Played(tuple(b or 0.0 for b in begin), tuple(free))


class _Step(NamedTuple):
    """What one kind of pass of one chunk takes, waits for and makes.

    `needs` and `makes` are the times, by micro-batch, at which such passes end; who waits for what
    it makes is stage `goes_to`.
    """

    seconds: float
    needs: list[float] | None
    way_s: float
    makes: list[float]
    goes_to: int


def _steps(orders: Sequence[Sequence[Pass]], costs: Costs) -> list[dict[Kind, list[_Step]]]:
    """Return the steps of every stage, by kind and chunk."""
    count = 1 + max((item.micro_batch for order in orders for item in order), default=-1)
    places = {
        costs.part(stage, chunk): stage
        for stage in range(costs.stages)
        for chunk in range(costs.chunks)
    }
    ends = {
        (kind, part): [_NEVER] * count
        for kind in ("forward", "backward", "weight")
        for part in places
    }

    def step(kind: Kind, stage: int, chunk: int) -> _Step:
        part = costs.part(stage, chunk)
        ending = "backward" if kind == "whole" else kind
        ahead = {"forward": 1, "backward": -1, "weight": 0}[ending]
        source, target = costs.neighbour(part, -ahead), costs.neighbour(part, ahead)
        return _Step(
            seconds=costs.seconds(kind, stage, chunk),
            needs=None if source is None else ends[ending, source],
            way_s=costs.message_s if source is not None and places[source] != stage else 0.0,
            makes=ends[ending, part],
            goes_to=stage if target is None else places[target],
        )

    return [
        {kind: [step(kind, stage, chunk) for chunk in range(costs.chunks)] for kind in KINDS}
        for stage in range(costs.stages)
    ]
