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
    `joined_s` is the time by which a backward pass that is joined with the other chunk's forward
    pass makes that longer; nothing where they are played one after the other.
    """

    forward_s: tuple[tuple[float, ...], ...]
    backward_s: tuple[tuple[float, ...], ...]
    weight_s: tuple[tuple[float, ...], ...]
    kept: tuple[tuple[float, ...], ...]
    message_s: float
    folded_back: bool = False
    mirrored: bool = False
    joined_s: tuple[tuple[float, ...], ...] = ()

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
        if kind == "joined" and self.joined_s:
            return self.joined_s[stage][chunk]
        if kind in ("whole", "joined"):
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
    stages = [_Replay(order, rows) for order, rows in zip(orders, steps, strict=True)]
    for stage, free_s in zip(stages, start_s or (), strict=start_s is not None):
        stage.free_s = free_s
    todo = list(range(len(stages)))
    while todo:
        stages[todo.pop()].play(stages, todo)
    if any(stage.at < len(stage.order) for stage in stages):
        raise ValueError("the orders of the stages wait for each other in a circle")
    return Played(tuple(s.begin_s or 0.0 for s in stages), tuple(s.free_s for s in stages))


class _Replay:
    """A stage that plays its order; `stalled` is the input that it waits for."""

    def __init__(self, order: Sequence[Pass], rows: dict[Kind, list[_Step]]) -> None:
        self.order = order
        self.rows = rows
        self.at = 0
        self.free_s = 0.0
        self.begin_s: float | None = None
        self.stalled: tuple[list[float], int] | None = None
        self.joins = {at - 1 for at, item in enumerate(order) if item.kind == "joined"}

    def play(self, stages: Sequence[_Replay], todo: list[int]) -> None:
        """Play until an input is missing; stages that waited for what is made go to `todo`."""
        order, rows, joins = self.order, self.rows, self.joins
        while self.at < len(order):
            kind, micro_batch, chunk = order[self.at]
            step = rows[kind][chunk]
            starts = self._ready_s(step, micro_batch, self.free_s)
            ends = starts + step.seconds
            if joins and self.at in joins:
                kind, other, chunk = order[self.at + 1]
                beside = rows[kind][chunk]
                starts = self._ready_s(beside, other, starts)
                ends = starts + step.seconds + beside.seconds
            if starts == _NEVER:
                return
            if self.begin_s is None:
                self.begin_s = starts
            self.at += 1
            if joins and self.at - 1 in joins:
                self.at += 1
                _hand_on(beside, other, ends, stages, todo)
            self.free_s = ends
            _hand_on(step, micro_batch, ends, stages, todo)

    def _ready_s(self, step: _Step, micro_batch: int, free_s: float) -> float:
        """When a pass can begin, or never for now."""
        if step.needs is None:
            return free_s
        ready_s = step.needs[micro_batch] + step.way_s
        if ready_s == _NEVER:
            self.stalled = (step.needs, micro_batch)
        return ready_s if ready_s > free_s else free_s


def _hand_on(
    step: _Step, micro_batch: int, ends_s: float, stages: Sequence[_Replay], todo: list[int]
) -> None:
    """Note when a pass has ended; the stage that waits for it goes on."""
    step.makes[micro_batch] = ends_s
    target = stages[step.goes_to]
    waits = target.stalled
    if waits is not None and waits[0] is step.makes and waits[1] == micro_batch:
        target.stalled = None
        todo.append(step.goes_to)


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
        ending: Kind = "backward" if kind in ("whole", "joined") else kind
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
