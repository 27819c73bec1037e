"""A list scheduler of pipelines: every stage that is free plays a pass that is ready."""

from __future__ import annotations

import heapq
from collections import deque
from typing import TYPE_CHECKING

from desim.plan.schedules.costs import Played
from desim.plan.schedules.passes import Pass

if TYPE_CHECKING:
    from collections.abc import Sequence

    from desim.plan.schedules.costs import Costs
    from desim.plan.schedules.passes import Kind

    Queue = tuple[Kind, int]

_SLACK = 1e-9


class _Stage:
    """What a stage has done, holds and has received; memory is in micro-batches."""

    def __init__(self, number: int, costs: Costs, limit: float) -> None:
        self.number = number
        self.begin_s = 0.0
        self.free_s = 0.0
        self.order: list[Pass] = []
        self.held = 0.0
        self.limit = limit * (1 + _SLACK)
        kinds: tuple[Kind, ...] = ("forward", "backward")
        self.arrived: dict[Queue, deque[float]] = {
            (kind, chunk): deque() for kind in kinds for chunk in range(costs.chunks)
        }
        self.done = dict.fromkeys(self.arrived, 0)
        self.placed = 0
        self.weights: deque[Pass] = deque()


class Greedy:
    """Plays the pipeline in time order.

    With a `pattern` (an order of forward and backward passes per stage) only weight gradients are
    placed: one runs where memory allows no forward pass, where no input is on its way, or where it
    comes after a gap of at least `gap` times the weight gradient's duration. Without one, backward
    passes go first, the oldest before others, then forward passes, of the last chunk before others
    (for which memory is kept free), then weight gradients.
    """

    def __init__(
        self,
        costs: Costs,
        micro_batches: int,
        limit: int,
        gap: float,
        pattern: Sequence[Sequence[Pass]] | None = None,
    ) -> None:
        self._costs = costs
        self._gap = gap
        self._pattern = pattern
        self._held = 1.0 / costs.chunks
        self._stages = [_Stage(s, costs, limit * costs.stages) for s in range(costs.stages)]
        self._place = {
            costs.part(s, c): (s, c) for s in range(costs.stages) for c in range(costs.chunks)
        }
        self._heap = [(0.0, s) for s in range(costs.stages)]
        self._stages[0].arrived["forward", 0].extend([0.0] * micro_batches)

    def run(self) -> list[list[Pass]]:
        """Return the order of every stage."""
        while self._heap:
            now, number = heapq.heappop(self._heap)
            stage = self._stages[number]
            if now < stage.free_s:
                continue
            chosen, wake_s = self._choose(stage, now)
            if chosen is not None:
                self._start(stage, chosen, now)
            elif wake_s is not None:
                heapq.heappush(self._heap, (wake_s, number))
        return [stage.order for stage in self._stages]

    @property
    def played(self) -> Played:
        """When the stages began and ended, once all have run."""
        stages = self._stages
        return Played(tuple(s.begin_s for s in stages), tuple(s.free_s for s in stages))

    def _choose(self, stage: _Stage, now: float) -> tuple[Pass | None, float | None]:
        """Return the pass that a free stage plays now, or when to ask again."""
        ready: list[Queue] = []
        coming_s = float("inf")
        blocked = False
        for queue in self._candidates(stage):
            times = stage.arrived[queue]
            if not times:
                continue
            if queue[0] == "forward" and not self._fits(stage, queue[1]):
                blocked |= times[0] <= now
            elif times[0] <= now:
                ready.append(queue)
            else:
                coming_s = min(coming_s, times[0])
        if ready:
            kind, chunk = min(ready, key=lambda queue: self._rank(stage, queue))
            return Pass(kind, stage.done[kind, chunk], chunk), None
        if stage.weights:
            first = stage.weights[0]
            fills_s = self._gap * self._costs.weight_s[stage.number][first.chunk]
            if blocked or coming_s - now >= fills_s:
                return first, None
        return None, coming_s if coming_s < float("inf") else None

    def _candidates(self, stage: _Stage) -> list[Queue]:
        if self._pattern is None:
            return list(stage.arrived)
        order = self._pattern[stage.number]
        if stage.placed == len(order):
            return []
        item = order[stage.placed]
        return [(item.kind, item.chunk)]

    def _fits(self, stage: _Stage, chunk: int) -> bool:
        """Whether memory is left for a forward pass; a pattern keeps room for the last chunk's."""
        room = self._held if self._pattern is None and chunk < self._costs.chunks - 1 else 0.0
        return stage.held + self._held + room <= stage.limit

    @staticmethod
    def _rank(stage: _Stage, queue: Queue) -> tuple[int, int]:
        kind, chunk = queue
        return (0, stage.done[queue]) if kind == "backward" else (1, -chunk)

    def _start(self, stage: _Stage, item: Pass, now: float) -> None:
        """Play a pass and hand on its result."""
        costs, number = self._costs, stage.number
        kind, micro_batch, chunk = item
        if not stage.order:
            stage.begin_s = now
        stage.order.append(item)
        stage.free_s = now + costs.seconds(kind, number, chunk)
        heapq.heappush(self._heap, (stage.free_s, number))
        kept = costs.kept[number][chunk] * self._held
        if kind == "weight":
            stage.weights.popleft()
            stage.held -= kept
            return
        stage.arrived[kind, chunk].popleft()
        stage.done[kind, chunk] += 1
        stage.placed += 1
        if kind == "forward":
            stage.held += self._held
        else:
            stage.held += kept - self._held
            stage.weights.append(Pass("weight", micro_batch, chunk))
        self._hand_on(stage, kind, chunk)

    def _hand_on(self, stage: _Stage, kind: Kind, chunk: int) -> None:
        """Let the next stage know when the result of the pass just played is there."""
        part = self._costs.part(stage.number, chunk)
        if kind == "forward" and part == len(self._place) - 1:
            kind, target = "backward", part
        else:
            target = part + (1 if kind == "forward" else -1)
        if target < 0:
            return
        number, chunk = self._place[target]
        at_s = stage.free_s + (self._costs.message_s if number != stage.number else 0.0)
        self._stages[number].arrived[kind, chunk].append(at_s)
        heapq.heappush(self._heap, (at_s, number))
