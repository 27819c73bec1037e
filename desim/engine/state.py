"""The state of a part of the job at the end of a period: what is under way, and when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from desim.engine.links import Flow
from desim.plan.tables import COMPUTE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from desim.engine.environment import Clock, Tick
    from desim.engine.links import SharedLinks
    from desim.engine.rank import Rank
    from desim.plan.repeat import Repeat

_FAR = -1


@dataclass(frozen=True, slots=True)
class State:
    """Where a part stands, relative to a period and an instant.

    `shape` is all that is counted: tasks done, who waits for whom, what is under way in which
    order. `times_ps` are the times that go with it: how far the host of each rank is ahead, then
    when kernels and flows began and when what is under way will end.
    """

    shape: tuple[Any, ...]
    times_ps: tuple[int, ...]


class Part:
    """Ranks that meet nobody else while micro-batches repeat.

    `watched` is the rank whose periods are watched: the one with the fewest.
    """

    def __init__(self, ranks: Sequence[Rank], clock: Clock, links: SharedLinks) -> None:
        self.ranks = ranks
        self.watched = min(ranks, key=lambda rank: rank.score.program.repeats[0].periods)
        self._clock = clock
        self._links = links
        self._indices = {rank.index for rank in ranks}
        self._device = {id(rank.device): rank.index for rank in ranks}
        self._groups = {
            id(port[0]): port[0] for rank in ranks for port in rank.ports if port is not None
        }

    def state(self, step: int, period: int) -> State | None:
        """Where everything stands at the end of a period; None where a lane is not inside them."""
        now = self._clock._now
        shapes: list[Any] = []
        ahead: list[int] = []
        times: list[int] = []
        for rank in self.ranks:
            repeat = rank.score.program.repeats[step]
            shape = _rank_shape(rank, repeat, period)
            if shape is None:
                return None
            shapes.append(shape)
            ahead.append(now - rank.host.shift - rank.host.issue_ps[repeat.task(period)])
            if rank.device.running:
                times += (rank.device.begun - now, rank.device.due - now)
        flows = self._flows()
        numbers = {flow: number for number, flow in enumerate(flows)}
        events = self._events()
        times += (flow.since_ps - now for flow in flows)
        times += (time - now for time, _, _ in events)
        loaded = [
            (link, *(numbers[flow] for flow in those if flow in numbers))
            for link, those in self._links.loaded()
        ]
        shapes += self._meetings()
        shapes.append(tuple(item for item in loaded if len(item) > 1))
        shapes += (_moving(flow) for flow in flows)
        shapes += ((priority, *self._what(event, numbers)) for _, priority, event in events)
        return State(tuple(shapes), (*ahead, *times))

    def skip(self, length_ps: int, drift_ps: Sequence[int]) -> bool:
        """Let `length_ps` pass for these ranks alone, in which the times of the state move.

        `drift_ps` says by how much, in the order of `State.times_ps`. Returns whether that can be:
        nothing may come to lie in the past, and a kernel moves as a whole.
        """
        now, number = self._clock._now, len(self.ranks)
        drift = iter(drift_ps[number:])
        ranks = []
        for rank, gained in zip(self.ranks, drift_ps[:number], strict=True):
            begun, due = (next(drift), next(drift)) if rank.device.running else (0, 0)
            if begun != due:
                return False
            ranks.append((rank, length_ps - gained, length_ps + begun))
        flows = [(flow, length_ps + next(drift)) for flow in self._flows()]
        events = [(time, event, length_ps + next(drift)) for time, _, event in self._events()]
        if any(time + delay < now for time, _, delay in events):
            return False
        for rank, host_ps, device_ps in ranks:
            rank.host.shift += host_ps
            rank.device.skip(device_ps)
        for flow, delay in flows:
            flow.since_ps += delay
        self._clock.postpone({event: delay for _, event, delay in events})
        return True

    def _has(self, members: Sequence[tuple[Rank, int]]) -> bool:
        return members[0][0].index in self._indices

    def _flows(self) -> list[Flow]:
        """Flows of these ranks, by link and in order of arrival."""
        seen = {flow: None for _, flows in self._links.loaded() for flow in flows}
        return [flow for flow in seen if self._has(flow.members)]

    def _events(self) -> list[tuple[int, int, Tick]]:
        """What will happen to these ranks (time, priority, event), in order for each of them."""
        coming = [(self._owner(item[3]), item) for item in self._clock.coming()]
        mine = [(owner, item) for owner, item in coming if owner in self._indices]
        mine.sort(key=lambda pair: pair[0])
        return [(time, priority, event) for _, (time, priority, _, event) in mine]

    def _owner(self, event: Tick) -> int:
        """Number of the rank, or of the first, that an event is of."""
        payload = event.payload
        rank: Rank
        if isinstance(payload, Flow):
            rank = payload.members[0][0]
        elif isinstance(payload, tuple):
            first, second = payload
            rank = first if isinstance(second, int) else second[0][0]
        else:
            return self._device.get(id(getattr(event.callbacks[0], "__self__", None)), _FAR)
        return rank.index

    def _meetings(self) -> list[Any]:
        """Which of these ranks wait at which rendezvous, in order of turns."""
        return [
            (group.number, _numbers(present))
            for group in self._groups.values()
            for _, present in sorted(group.waiting.items())
            if self._has(present)
        ]

    def _what(self, event: Tick, flows: dict[Flow, int]) -> tuple[Any, ...]:
        """Which callback an event has, of whom, and with what."""
        name, payload = event.callbacks[0].__name__, event.payload
        if payload is None:
            return self._owner(event), name
        if isinstance(payload, Flow):
            return self._owner(event), name, flows[payload]
        first, second = payload
        if isinstance(second, int):
            return first.index, name, second
        return _FAR, name, first.number, first.limit, _numbers(second)


def _numbers(members: Sequence[tuple[Rank, int]]) -> tuple[tuple[int, int], ...]:
    return tuple((rank.index, lane) for rank, lane in members)


def _moving(flow: Flow) -> tuple[Any, ...]:
    transfer = flow.transfer
    return transfer.number, transfer.limit, flow.left, flow.rate, _numbers(flow.members)


def _rank_shape(rank: Rank, repeat: Repeat, period: int) -> tuple[Any, ...] | None:
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
        (device.kernel - kernels, device.left, device.whole, device.load) if device.running else (),
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
