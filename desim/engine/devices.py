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


#: Numbers of an entry in `Device.pieces`: (time, kernel, time left, load).
PIECE = 4


class Device:
    """A GPU as a resource: communication holds shares of it, kernels run on what is left.

    Kernels run in runs, one after the other without a gap; a run is re-timed when a share is held
    or released. `begun` is when the present speed began, `kernel` the one that ran then and
    `left` / `whole` the part of it that was left; `due` is when the run ends. An event that comes
    before is left in place and waits on: a share held for a while and given back costs none.
    `pieces` logs (time, kernel, time left of that kernel or -1 for a fresh one, load number) for
    every change. `ended` is called with the kernel at which a run stopped, `retimed`, where there
    is one, once the running kernels may go at another speed.
    """

    __slots__ = (
        "_base",
        "_clock",
        "_host",
        "_sums",
        "_tasks",
        "_tick",
        "_tick_at",
        "begun",
        "due",
        "end",
        "ended",
        "kernel",
        "left",
        "limited",
        "load",
        "memory",
        "pieces",
        "retimed",
        "running",
        "sms",
        "stop",
        "timing",
        "whole",
    )

    def __init__(self, clock: Clock, timing: Timing, host: Host, tasks: list[int]) -> None:
        self._clock = clock
        self._host = host
        self._tasks = tasks
        self.ended: Callable[[int], None]
        self.retimed: Callable[[], None] | None = None
        self.timing = timing
        self.sms = self.memory = 0
        self.running = self.limited = False
        self.begun = self.kernel = self.end = self.stop = self.due = 0
        self.left = self.whole = 1
        self.load = -1
        self._sums: list[int] = []  # before each kernel from `_base` on, under the present load
        self._base = 0
        self._tick: Tick | None = None
        self._tick_at = 0
        self.pieces = array("q")

    def run(self, kernel: int, stop: int) -> None:
        """Run kernels from `kernel` up to `stop`."""
        self.stop = stop
        self._run(kernel)

    def _run(self, kernel: int) -> None:
        """Run kernels up to the stop, or as far as the host has come."""
        now = self._clock._now
        self.load = number = self.timing.number((self.sms, self.memory))
        host, end = self._host, self.stop
        self._base = kernel
        self._sums = sums = self.timing.sums(number, kernel, end)
        self.running = True
        self.begun, self.kernel, self.left, self.whole = now, kernel, 1, 1
        self.limited = host.shift + host.issue_ps[self._tasks[end - 1]] > now
        if self.limited:
            end = self._reach(kernel, now)
        self.end = end
        self.pieces.extend((now, kernel, -1, number))
        self._wait(sums[end - kernel])

    def _wait(self, left: int) -> None:
        """Wait for the end of the run, `left` from now."""
        self.due = self._tick_at = self._clock._now + left
        self._tick = self._clock.after(left, self._done, None)

    def _reach(self, kernel: int, started: int) -> int:
        """First kernel after `kernel` that the host issues only after its turn has come."""
        base, sums, tasks, issue_ps = self._base, self._sums, self._tasks, self._host.issue_ps
        offset = started - sums[kernel - base] - self._host.shift
        for k in range(kernel + 1, self.stop):
            if issue_ps[tasks[k]] > offset + sums[k - base]:
                return k
        return self.stop

    def _done(self, _: Any) -> None:
        left = self.due - self._clock._now
        if left:
            self._wait(left)
            return
        self.running = False
        if self.end == self.stop:
            self.ended(self.stop)
        else:
            issued = self._host.shift + self._host.issue_ps[self._tasks[self.end]]
            self._clock.after(issued - self._clock._now, self._resume, None)

    def _resume(self, _: Any) -> None:
        self._run(self.end)

    def skip(self, length_ps: int) -> None:
        """Go on as much later with what runs now."""
        if self.running:
            self.begun += length_ps
            self.due += length_ps
            self._tick_at += length_ps
            self.pieces[-PIECE] += length_ps

    def computes(self) -> bool:
        """Whether a kernel runs now and beyond this instant."""
        now = self._clock._now
        if not self.running or self.due <= now:
            return False
        return not self.timing.mixed or self.timing.computes(self._current(now))

    def _current(self, now: int) -> int:
        """The kernel that runs now."""
        sums, at = self._sums, self.kernel - self._base
        first = -(-self.left * (sums[at + 1] - sums[at]) // self.whole)
        passed = now - self.begun - first
        if passed < 0:
            return self.kernel
        end = self.end - self._base
        return self._base + bisect_right(sums, sums[at + 1] + passed, at + 1, end + 1) - 1

    def kernel_now(self) -> int:
        """The kernel that runs now and beyond this instant; -1 where none computes."""
        return self._current(self._clock._now) if self.computes() else -1

    def kernel_left_ps(self, before: int | None = None) -> int:
        """How long the kernel that runs now goes on at the present speed; 0 where none computes.

        With a task number `before`: 0 also for a kernel that is issued after it.
        """
        if not self.computes():
            return 0
        now, sums, base = self._clock._now, self._sums, self._base
        current = self._current(now)
        if before is not None and self._tasks[current] > before:
            return 0
        at = self.kernel - base
        first = -(-self.left * (sums[at + 1] - sums[at]) // self.whole)
        return self.begun + first - sums[at + 1] + sums[current - base + 1] - now

    def hold(self, sms: int, memory: int) -> None:
        """Take SMs and memory bandwidth (parts per thousand) from kernels; negative gives back."""
        self.sms += sms
        self.memory += memory
        if self.running:
            self._retime()
            if self.retimed is not None:
                self.retimed()

    def _retime(self) -> None:
        """Go on with the running kernels at the speed that the present shares leave them."""
        number = self.timing.number((self.sms, self.memory))
        if number == self.load:
            return
        now = self._clock._now
        if now == self.begun:
            del self.pieces[-PIECE:]
        elif not self._mark_progress(now):
            return
        self.load = number
        self._sums = sums = self.timing.sums(number, self._base, self.stop)
        kernel = self.kernel
        at = kernel - self._base
        whole = sums[at + 1] - sums[at]
        first = -(-self.left * whole // self.whole)
        if self.limited:
            self.end = self._reach(kernel, now + first - whole)
        self.pieces.extend((now, kernel, -1 if self.left == self.whole else first, number))
        left = first + sums[self.end - self._base] - sums[at + 1]
        if now + left >= self._tick_at:
            self.due = now + left
            return
        assert self._tick is not None
        self._tick.cancel()
        self._wait(left)

    def _mark_progress(self, now: int) -> bool:
        """Note which kernel runs now and what is left of it; False if the run ends this instant."""
        sums, base, kernel = self._sums, self._base, self.kernel
        at = kernel - base
        whole = sums[at + 1] - sums[at]
        first = -(-self.left * whole // self.whole)
        passed = now - self.begun
        if passed >= first:
            target = sums[at + 1] + passed - first
            end = self.end - base
            if target >= sums[end]:
                return False
            at = bisect_right(sums, target, at + 1, end + 1) - 1
            kernel = base + at
            whole = sums[at + 1] - sums[at]
            first, passed = sums[at + 1] - target, 0
        self.begun, self.kernel = now, kernel
        self.left, self.whole = first - passed, whole
        return True
