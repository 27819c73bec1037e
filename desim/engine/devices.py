"""Devices: a GPU whose SMs and memory bandwidth kernels and communication share."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from desim.engine.environment import Clock, Tick
    from desim.engine.host import Host
    from desim.engine.timing import Timing


class Device:
    """A GPU as a resource: communication holds shares of it, kernels run on what is left.

    Kernels run in runs, one after the other without a gap; a run is re-timed when a share is held
    or released. `begun` is when the present speed began, `kernel` the one that ran then and
    `left` / `whole` the part of it that was left. `pieces` logs (time, kernel, time left of that
    kernel or -1 for a fresh one, load number) for every change.
    """

    __slots__ = (
        "_clock",
        "_ended",
        "_host",
        "_tasks",
        "begun",
        "end",
        "kernel",
        "left",
        "limited",
        "load",
        "memory",
        "pieces",
        "running",
        "sms",
        "stop",
        "sums",
        "tick",
        "timing",
        "whole",
    )

    def __init__(self, clock: Clock, timing: Timing, host: Host, tasks: list[int]) -> None:
        self._clock = clock
        self._host = host
        self._tasks = tasks
        self._ended: Callable[[], None]
        self.timing = timing
        self.sms = self.memory = 0
        self.running = self.limited = False
        self.begun = self.kernel = self.end = self.stop = 0
        self.left = self.whole = 1
        self.load = -1
        self.sums: list[int] = []
        self.tick: Tick | None = None
        self.pieces = array("q")

    def run(self, kernel: int, stop: int, ended: Callable[[], None]) -> None:
        """Run kernels from `kernel` up to `stop`, then call `ended`."""
        self.stop = stop
        self._ended = ended
        self._run(kernel)

    def _run(self, kernel: int) -> None:
        """Run kernels up to the stop, or as far as the host has come."""
        now = self._clock._now
        self.load = number = self.timing.number((self.sms, self.memory))
        self.sums = sums = self.timing.sums(number)
        self.running = True
        self.begun, self.kernel, self.left, self.whole = now, kernel, 1, 1
        host, end = self._host, self.stop
        self.limited = host.shift + host.issue_ps[self._tasks[end - 1]] > now
        if self.limited:
            host.late.append(now)
            end = self._reach(kernel, now)
        self.end = end
        self.pieces.extend((now, kernel, -1, number))
        self.tick = self._clock.after(sums[end] - sums[kernel], self._done, None)

    def _reach(self, kernel: int, started: int) -> int:
        """First kernel after `kernel` that the host issues only after its turn has come."""
        sums, tasks, issue_ps = self.sums, self._tasks, self._host.issue_ps
        offset = started - sums[kernel] - self._host.shift
        for k in range(kernel + 1, self.stop):
            if issue_ps[tasks[k]] > offset + sums[k]:
                return k
        return self.stop

    def _done(self, _: Any) -> None:
        self.running = False
        if self.end == self.stop:
            self._ended()
        else:
            issued = self._host.shift + self._host.issue_ps[self._tasks[self.end]]
            self._clock.after(issued - self._clock._now, self._resume, None)

    def _resume(self, _: Any) -> None:
        self._run(self.end)

    def hold(self, sms: int, memory: int) -> None:
        """Take SMs and memory bandwidth (parts per thousand) from kernels; negative gives back."""
        self.sms += sms
        self.memory += memory
        if self.running:
            self._retime()

    def _retime(self) -> None:
        """Go on with the running kernels at the speed that the present shares leave them."""
        number = self.timing.number((self.sms, self.memory))
        if number == self.load:
            return
        now = self._clock._now
        if now == self.begun:
            del self.pieces[-4:]
        elif not self._mark_progress(now):
            return
        self.load = number
        self.sums = sums = self.timing.sums(number)
        kernel = self.kernel
        whole = sums[kernel + 1] - sums[kernel]
        first = -(-self.left * whole // self.whole)
        if self.limited:
            self.end = self._reach(kernel, now + first - whole)
        self.pieces.extend((now, kernel, -1 if self.left == self.whole else first, number))
        assert self.tick is not None
        self.tick.cancel()
        left = first + sums[self.end] - sums[kernel + 1]
        self.tick = self._clock.after(left, self._done, None)

    def _mark_progress(self, now: int) -> bool:
        """Note which kernel runs now and what is left of it; False if the run ends this instant."""
        sums, kernel = self.sums, self.kernel
        whole = sums[kernel + 1] - sums[kernel]
        first = -(-self.left * whole // self.whole)
        passed = now - self.begun
        if passed >= first:
            target = sums[kernel + 1] + passed - first
            if target >= sums[self.end]:
                return False
            kernel = bisect_right(sums, target, kernel + 1, self.end + 1) - 1
            whole = sums[kernel + 1] - sums[kernel]
            first, passed = sums[kernel + 1] - target, 0
        self.begun, self.kernel = now, kernel
        self.left, self.whole = first - passed, whole
        return True
