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

_SLACK = 1e-9
_NEVER = float("inf")


class _Stage:
    """What a stage has done, holds and has received; memory is in micro-batches.

    Inputs come through one queue for each direction of each chunk: forward passes of chunk c
    through queue c, backward passes through queue c + chunks. `arrived[queue]` are the times at
    which its inputs come, by micro-batch, and `done[queue]` counts those that were used.
    """

    def __init__(self, number: int, costs: Costs, limit: float, gap: float) -> None:
        chunks = costs.chunks
        self.number = number
        self.chunks = chunks
        self.begin_s = 0.0
        self.free_s = 0.0
        self.order: list[Pass] = []
        self.weights: deque[Pass] = deque()
        self.arrived: list[list[float]] = [[] for _ in range(2 * chunks)]
        self.done = [0] * (2 * chunks)
        self.share = 1.0 / chunks
        self.held = 0.0
        self.limit = limit * (1 + _SLACK)
        self.weight_s = costs.weight_s[number]
        self.fills_s = [gap * seconds for seconds in self.weight_s]
        self.seconds = (*costs.forward_s[number], *costs.backward_s[number])
        self.kept = [kept * self.share for kept in costs.kept[number]]
        self.change = [self.share] * chunks + [kept - self.share for kept in self.kept]

    def choose(self, now: float) -> Pass | None:
        """Return the pass that the stage plays now that it is free, if there is one.

        Backward passes go first, the oldest before others, then forward passes, of the last chunk
        before others (for which memory is kept free), then weight gradients.
        """
        chunks, done, arrived = self.chunks, self.done, self.arrived
        oldest, count = -1, 0
        for queue in range(chunks, 2 * chunks):
            at, times = done[queue], arrived[queue]
            if at < len(times) and times[at] <= now and (oldest < 0 or at < count):
                oldest, count = queue, at
        if oldest >= 0:
            return Pass("backward", count, oldest - chunks)
        blocked = False
        for chunk in reversed(range(chunks)):
            at, times = done[chunk], arrived[chunk]
            if at < len(times) and times[at] <= now:
                room = self.share if chunk < chunks - 1 else 0.0
                if self.held + self.share + room <= self.limit:
                    return Pass("forward", at, chunk)
                blocked = True
        if self.weights and (blocked or self._fills(self._coming_s(now) - now)):
            return self.weights[0]
        return None

    def _coming_s(self, now: float) -> float:
        """When the next input comes that the stage has memory for."""
        coming_s = _NEVER
        for queue, times in enumerate(self.arrived):
            at = self.done[queue]
            room = self.share if queue < self.chunks - 1 else 0.0
            fits = queue >= self.chunks or self.held + self.share + room <= self.limit
            if at < len(times) and times[at] > now and fits:
                coming_s = min(coming_s, times[at])
        return coming_s

    def _fills(self, gap_s: float) -> bool:
        return gap_s >= self.fills_s[self.weights[0].chunk]


class _PatternStage(_Stage):
    """A stage whose forward and backward passes have an order; weight gradients are placed."""

    def __init__(
        self, number: int, costs: Costs, limit: float, gap: float, pattern: Sequence[Pass]
    ) -> None:
        super().__init__(number, costs, limit, gap)
        self.pattern = pattern
        self.placed = 0

    def choose(self, now: float) -> Pass | None:
        """Return the next pass of the pattern, or a weight gradient where that has to wait.

        One runs where memory allows no forward pass, where no input is on its way, or where it
        comes after a gap that is long enough.
        """
        coming_s, fits = _NEVER, True
        if self.placed < len(self.pattern):
            item = self.pattern[self.placed]
            forward = item.kind == "forward"
            queue = item.chunk if forward else item.chunk + self.chunks
            at, times = self.done[queue], self.arrived[queue]
            if at < len(times):
                coming_s = times[at]
                fits = not forward or self.held + self.share <= self.limit
                if fits and coming_s <= now:
                    self.placed += 1
                    return item
        if self.weights and (not fits or self._fills(coming_s - now)):
            return self.weights[0]
        return None


class Greedy:
    """Plays the pipeline in time order.

    With a `pattern` (an order of forward and backward passes per stage) only weight gradients are
    placed: in gaps of at least `gap` times their duration, or where memory allows nothing else.
    Without one, all passes are.
    """

    def __init__(
        self,
        costs: Costs,
        micro_batches: int,
        limit: float,
        gap: float,
        pattern: Sequence[Sequence[Pass]] | None = None,
    ) -> None:
        stages, most = range(costs.stages), limit * costs.stages
        if pattern is None:
            self._stages = [_Stage(s, costs, most, gap) for s in stages]
        else:
            self._stages = [_PatternStage(s, costs, most, gap, pattern[s]) for s in stages]
        self._next = [
            [self._target(costs, s, queue) for queue in range(2 * costs.chunks)] for s in stages
        ]
        self._heap = [(0.0, s) for s in stages]
        self._stages[0].arrived[0].extend([0.0] * micro_batches)

    def run(self) -> list[list[Pass]]:
        """Return the order of every stage."""
        heap, stages = self._heap, self._stages
        while heap:
            now, number = heapq.heappop(heap)
            stage = stages[number]
            if now >= stage.free_s:
                chosen = stage.choose(now)
                if chosen is not None:
                    self._start(stage, chosen, now)
        return [stage.order for stage in stages]

    @property
    def played(self) -> Played:
        """When the stages began and ended, once all have run."""
        stages = self._stages
        return Played(tuple(s.begin_s for s in stages), tuple(s.free_s for s in stages))

    def _target(self, costs: Costs, number: int, queue: int) -> tuple[_Stage, int, float] | None:
        """Return who gets the result of a queue's passes: stage, queue, time on the way."""
        forward, chunk = queue < costs.chunks, queue % costs.chunks
        part, parts = costs.part(number, chunk), costs.stages * costs.chunks
        turns = forward and part == parts - 1
        wanted = part if turns else part + (1 if forward else -1)
        direction = 0 if forward and not turns else costs.chunks
        for stage in self._stages:
            for other in range(costs.chunks):
                if costs.part(stage.number, other) == wanted:
                    way_s = 0.0 if stage.number == number else costs.message_s
                    return stage, other + direction, way_s
        return None

    def _start(self, stage: _Stage, item: Pass, now: float) -> None:
        """Play a pass and hand on its result."""
        kind, micro_batch, chunk = item
        if not stage.order:
            stage.begin_s = now
        stage.order.append(item)
        if kind == "weight":
            stage.weights.popleft()
            stage.held -= stage.kept[chunk]
            stage.free_s = now + stage.weight_s[chunk]
            heapq.heappush(self._heap, (stage.free_s, stage.number))
            return
        queue = chunk
        if kind == "backward":
            queue += stage.chunks
            stage.weights.append(Pass("weight", micro_batch, chunk))
        stage.done[queue] += 1
        stage.held += stage.change[queue]
        stage.free_s = free_s = now + stage.seconds[queue]
        heapq.heappush(self._heap, (free_s, stage.number))
        following = self._next[stage.number][queue]
        if following is None:
            return
        target, queue, way_s = following
        at_s = free_s + way_s
        target.arrived[queue].append(at_s)
        # A stage that is busy until later looks again when it is free.
        if at_s >= target.free_s and target is not stage:
            heapq.heappush(self._heap, (at_s, target.number))
