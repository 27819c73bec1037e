"""A player that looks at the state of the whole engine where micro-batches repeat.

A plan was built without some of the equal periods in the middle of each step (`plan/repeat.py`).
While it is played, the state is noted at the ends of the periods that are left, relative to that
place and time; `left_out.py` says from these looks what the others would have taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from desim.engine.links import Flow
from desim.engine.play import Player
from desim.plan.tables import COMPUTE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from desim.engine.environment import Clock
    from desim.engine.rank import Rank
    from desim.plan.repeat import Repeat

_FAR = -1


@dataclass(frozen=True, slots=True)
class Look:
    """The state of the engine at the end of a period, relative to that place and time.

    `ahead_ps`: by how much the host of each rank is ahead of what it has to issue then. `state`
    is None where a lane is not inside the periods.
    """

    now_ps: int
    state: tuple[Any, ...] | None
    ahead_ps: tuple[int, ...]


class SteadyPlayer(Player):
    """A player that looks at its state whenever its busiest rank ends a period.

    `looks[step]` holds the looks of each step, `ends_ps[step][rank]` when the rank ended its
    periods.
    """

    def __init__(self, clock: Clock, ranks: Sequence[Rank]) -> None:
        super().__init__(clock, ranks)
        self._watched = min(ranks, key=lambda rank: rank.score.program.repeats[0].periods)
        repeats = self._watched.score.program.repeats
        self.looks: list[list[Look]] = [[] for _ in repeats]
        self.ends_ps: list[list[list[int]]] = [[[] for _ in ranks] for _ in repeats]
        self._marks = [
            {
                repeat.count(COMPUTE, period): (step, period)
                for step, repeat in enumerate(rank.score.program.repeats)
                for period in range(1, repeat.periods)
            }
            for rank in ranks
        ]
        self._device = {id(rank.device): rank.index for rank in ranks}

    def _finished(self, rank: Rank, lane: int, count: int) -> None:
        if lane == COMPUTE and count in self._marks[rank.index]:
            step, period = self._marks[rank.index][count]
            self.ends_ps[step][rank.index].append(self.clock._now)
            if rank is self._watched:
                self.clock.late(self._look, (step, period))
        super()._finished(rank, lane, count)

    def _look(self, event: Any) -> None:
        step, period = event.payload
        now = self.clock._now
        repeats = [rank.score.program.repeats[step] for rank in self.ranks]
        parts: list[Any] = []
        for rank, repeat in zip(self.ranks, repeats, strict=True):
            part = _rank_state(rank, repeat, period, now)
            if part is None:
                break
            parts.append(part)
        inside = len(parts) == len(self.ranks)
        state = (*parts, *self._meetings(), *self._events(now)) if inside else None
        ahead = [_ahead(rank, r, period, now) for rank, r in zip(self.ranks, repeats, strict=True)]
        self.looks[step].append(Look(now, state, tuple(ahead)))

    def _meetings(self) -> list[Any]:
        """Who waits at which rendezvous, in order of turns."""
        groups = {
            id(port[0]): port[0] for rank in self.ranks for port in rank.ports if port is not None
        }
        return [
            (group.number, tuple(_members(present) for _, present in sorted(group.waiting.items())))
            for group in groups.values()
            if group.waiting
        ]

    def _events(self, now: int) -> list[Any]:
        """What is under way, in the order in which it will happen, and the flows on links."""
        flows: dict[Flow, int] = {}
        links = self._links.state(flows)
        events = [
            (time - now, priority, *self._event(event, flows))
            for time, priority, _, event in sorted(self.clock._queue, key=lambda item: item[:3])
            if event.callbacks
        ]
        under_way = [
            (f.transfer.number, f.transfer.limit, f.left, f.rate, now - f.since_ps, f.members)
            for f in flows
        ]
        moving = [(*rest, _members(members)) for *rest, members in under_way]
        return [tuple(links), tuple(moving), tuple(events)]

    def _event(self, event: Any, flows: dict[Flow, int]) -> tuple[Any, ...]:
        """Which callback an event has, of whom, and with what."""
        callback, payload = event.callbacks[0], event.payload
        owner = self._device.get(id(callback.__self__), _FAR)
        name = callback.__name__
        if payload is None:
            return owner, name
        if isinstance(payload, Flow):
            return owner, name, flows[payload]
        first, second = payload
        if isinstance(second, int):
            return owner, name, getattr(first, "index", first), second
        return owner, name, first.number, first.limit, _members(second)


def _members(members: Sequence[tuple[Rank, int]]) -> tuple[tuple[int, int], ...]:
    return tuple((rank.index, lane) for rank, lane in members)


def _ahead(rank: Rank, repeat: Repeat, period: int, now: int) -> int:
    if rank.device.running and rank.device.limited:
        rank.host.late.append(now)
    return now - rank.host.shift - rank.host.issue_ps[repeat.task(period)]


def _rank_state(rank: Rank, repeat: Repeat, period: int, now: int) -> tuple[Any, ...] | None:
    """Where the lanes, the host and the device stand; None where one is not inside the periods."""
    host, device = rank.host, rank.device
    end_task = repeat.task(repeat.periods)
    if host.at and host.waits[host.at - 1][0] >= end_task:
        return None
    blocked = [
        tuple((_relative(count, awaited, repeat, period), lane) for count, lane in waiting)
        for awaited, waiting in enumerate(rank.blocked)
    ]
    host_far = host.limit >= end_task
    held = {lane for waiting in blocked for count, lane in waiting if count == _FAR}
    held.update(host.blocked if host_far else ())
    for lane, track in enumerate(rank.tracks):
        if not _inside(rank, lane, repeat) and (rank.next[lane] < track.number):
            still = not repeat.period.counts[lane] and lane in held
            if not still or rank.done[lane] != repeat.first.counts[lane]:
                return None
    done = [n - period * step for n, step in zip(rank.done, repeat.period.counts, strict=True)]
    kernels = repeat.count(COMPUTE, period)
    waits = (
        (host.at, _FAR)
        if host_far
        else (
            host.limit - repeat.task(period),
            host.lane,
            _relative(host.count, host.lane, repeat, period),
        )
    )
    running = (
        device.running,
        device.limited,
        (
            device.begun - now,
            device.due - now,
            device.kernel - kernels,
            device.left,
            device.whole,
            device.load,
        )
        if device.running
        else (),
        device.end - kernels,
        device.stop - kernels,
        device.sms,
        device.memory,
    )
    return (*done, *blocked, *waits, tuple(host.blocked), *running)


def _relative(count: int, lane: int, repeat: Repeat, period: int) -> int | tuple[int, int]:
    """A count of tasks, relative to the period, or that it is past all periods."""
    if count > repeat.end(lane):
        return _FAR
    return (0, count - repeat.count(lane, period))


def _inside(rank: Rank, lane: int, repeat: Repeat) -> bool:
    """Whether a lane is among the periods and has not looked at what follows them."""
    head = rank.device.stop if lane == COMPUTE and rank.device.running else rank.done[lane] + 1
    return repeat.first.counts[lane] <= rank.done[lane] and head < repeat.end(lane)
