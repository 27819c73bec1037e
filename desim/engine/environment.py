"""SimPy's environment on an integer clock of picoseconds, and the one event the engine uses."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any

from simpy import Environment
from simpy.events import NORMAL, Event, EventPriority

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: Runs after everything else of its instant: rates are solved once per instant.
LATE = EventPriority(NORMAL + 1)


class Clock(Environment):
    """A SimPy environment whose time is a count of picoseconds.

    In floats 32 equal times added and one multiplied by 32 differ in the last bit; integers make
    ties exact, so that one representative and 32 ranks see the same order of events.
    """

    _now: int

    def __init__(self) -> None:
        super().__init__(initial_time=0)
        self.num_events = 0

    def run(self, until: Any = None) -> Any:
        """Process events until none is left, or as SimPy does up to `until`.

        SimPy's loop without what only its own kinds of events need.
        """
        if until is not None:
            return super().run(until)
        queue = self._queue
        while queue:
            self._now, _, _, event = heappop(queue)  # type: ignore[assignment]
            for callback in event.callbacks:
                callback(event)
        return None

    def after(self, delay_ps: int, callback: Callable[[Any], None], payload: Any) -> Tick:
        """Call `callback` with an event that carries `payload` after `delay_ps`."""
        tick = Tick(self, callback, payload)
        heappush(self._queue, (self._now + delay_ps, NORMAL, next(self._eid), tick))
        self.num_events += 1
        return tick

    def late(self, callback: Callable[[Any], None], payload: Any = None) -> None:
        """Call `callback` with an event that carries `payload` at the end of this instant."""
        heappush(self._queue, (self._now, LATE, next(self._eid), Tick(self, callback, payload)))
        self.num_events += 1

    def coming(self) -> list[tuple[int, int, int, Tick]]:
        """What will happen, as (time, priority, number, event), in order."""
        queue: list[Any] = [item for item in self._queue if item[3].callbacks]
        return sorted(queue)

    def postpone(self, delays_ps: Mapping[Tick, int]) -> None:
        """Let some events happen later."""
        self._queue[:] = [(t + delays_ps.get(e, 0), p, i, e) for t, p, i, e in self._queue]  # type: ignore[call-overload]
        heapify(self._queue)

    def clear(self) -> None:
        """Let nothing more happen."""
        self._queue.clear()


class Tick(Event):
    """An event that is triggered when it is made and has one callback."""

    def __init__(self, env: Environment, callback: Callable[[Any], None], payload: Any) -> None:
        self.env = env
        self.callbacks = [callback]
        self._value = None
        self._ok = True
        self.payload = payload

    def cancel(self) -> None:
        """Make the event do nothing when its time comes."""
        assert self.callbacks is not None, "an event is cancelled before it is processed"
        self.callbacks.clear()
