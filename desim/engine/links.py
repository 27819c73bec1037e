"""Links that transfers share: fluid flows at max-min fair speeds.

A flow is one collective or message. Its speed x is the share of the rate that it has alone; on
link k it then takes `use[k]` * x of the capacity. All flows on a link advance at the highest speed,
equal for equal weights and else in proportion to them, that the tightest link allows (progressive
filling: Bertsekas and Gallager, Data Networks, section 6.5.2), flows that are stopped elsewhere
leave their share to the rest.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from desim.engine.environment import Clock, Tick
    from desim.engine.rank import Rank
    from desim.engine.transfers import Transfer

#: Rates are whole thousandths of a byte per second, so that progress is exact in integers.
RATE_UNIT = 1000
_PS_PER_S = 10**12
_BYTE = RATE_UNIT * _PS_PER_S


class Flow:
    """One transfer whose bytes are under way."""

    __slots__ = ("done", "left", "members", "rate", "since_ps", "tick", "transfer")

    def __init__(
        self, transfer: Transfer, done: Callable[[], None], members: Sequence[tuple[Rank, int]]
    ) -> None:
        self.transfer = transfer
        self.members = members
        self.done = done
        self.left = transfer.size_bytes * _BYTE
        self.rate = 0
        self.since_ps = 0
        self.tick: Tick | None = None


class Link:
    """A link as a resource: the flows on it, each with the share that it takes at full speed."""

    __slots__ = ("flows",)

    def __init__(self) -> None:
        self.flows: dict[Flow, float] = {}


class SharedLinks:
    """All links that more than one group can load at a time.

    NVLink ports, PCIe lanes, NICs and the pooled uplinks of leaves and spines are all links.
    """

    def __init__(self, clock: Clock, observe: Callable[[Transfer, int, int, int], None]) -> None:
        self._clock = clock
        self._observe = observe
        self._links: defaultdict[int, Link] = defaultdict(Link)
        self._changed: set[int] = set()

    def start(
        self,
        transfer: Transfer,
        done: Callable[[], None],
        members: Sequence[tuple[Rank, int]] = (),
    ) -> None:
        """Let the bytes of a transfer of `members` flow; `done` is called after the last."""
        flow = Flow(transfer, done, members)
        flow.since_ps = self._clock._now
        shared = False
        for link, use in transfer.uses:
            flows = self._links[link].flows
            shared |= bool(flows)
            flows[flow] = use
        if shared:
            self._touch(link for link, _ in transfer.uses)
        else:  # what starts beside it in this instant will have all speeds set again
            self._set(flow, _rate(transfer, _speed_alone(transfer)))

    @property
    def unsettled(self) -> bool:
        """Whether speeds will be set again at the end of this instant."""
        return bool(self._changed)

    def loaded(self) -> list[tuple[int, list[Flow]]]:
        """Flows on each loaded link, in order of arrival."""
        return [(number, list(k.flows)) for number, k in sorted(self._links.items()) if k.flows]

    def _touch(self, links: Iterable[int]) -> None:
        if not self._changed:
            self._clock.late(self._solve)
        self._changed.update(links)

    def _solve(self, _: Any) -> None:
        """Set the speeds of all flows that a change of this instant can reach."""
        flows = self._reach(self._changed)
        self._changed = set()
        for flow, speed in fair_speeds({f: f.transfer for f in flows}).items():
            self._set(flow, _rate(flow.transfer, speed))

    def _reach(self, links: Iterable[int]) -> list[Flow]:
        """Flows joined to `links` through any chain of shared links, in order of arrival."""
        seen: dict[Flow, None] = {}
        todo, visited = sorted(links), set(links)
        while todo:
            for flow in self._links[todo.pop()].flows:
                if flow not in seen:
                    seen[flow] = None
                    for link, _ in flow.transfer.uses:
                        if link not in visited:
                            visited.add(link)
                            todo.append(link)
        return list(seen)

    def _set(self, flow: Flow, rate: int) -> None:
        if rate == flow.rate:
            return
        now = self._clock._now
        self._advance(flow, now)
        flow.rate = rate
        if flow.tick is not None:
            flow.tick.cancel()
        flow.tick = self._clock.after(-(-flow.left // rate), self._finish, flow)

    def _advance(self, flow: Flow, now: int) -> None:
        if flow.rate and now > flow.since_ps:
            self._observe(flow.transfer, flow.since_ps, now, flow.rate)
            flow.left -= flow.rate * (now - flow.since_ps)
        flow.since_ps = now

    def _finish(self, event: Any) -> None:
        flow: Flow = event.payload
        flow.tick = None
        self._advance(flow, self._clock._now)
        for link, _ in flow.transfer.uses:
            del self._links[link].flows[flow]
        freed = [link for link, _ in flow.transfer.uses if self._links[link].flows]
        if freed:
            self._touch(freed)
        flow.done()


def _rate(transfer: Transfer, speed: float) -> int:
    """A speed in whole thousandths of a byte per second."""
    return int(speed * transfer.rate_bytes_per_s * RATE_UNIT + 0.5)


def _speed_alone(transfer: Transfer) -> float:
    """Fair speed of a transfer whose links nothing else loads."""
    return min([transfer.limit, *(1.0 / use for _, use in transfer.uses)])


def fair_speeds(transfers: dict[Any, Transfer]) -> dict[Any, float]:
    """Max-min fair speeds of transfers that share links, in proportion to their weights.

    The speed of a transfer is at most its `limit`; on every link the sum of use x speed is at
    most 1.
    """
    room: dict[int, float] = {}
    users: dict[int, dict[Any, float]] = {}
    for key, transfer in transfers.items():
        for link, use in transfer.uses:
            users.setdefault(link, {})[key] = use * transfer.weight
            room[link] = 1.0
    total = {link: sum(uses.values()) for link, uses in users.items()}
    speeds: dict[Any, float] = {}
    waiting = dict(transfers)
    while waiting:
        level, link = min(((room[k] / total[k], k) for k in users), default=(float("inf"), -1))
        stopped = [key for key, t in waiting.items() if t.limit <= level * t.weight]
        if not stopped:
            stopped = list(users[link])
        for key in stopped:
            transfer = waiting.pop(key)
            speeds[key] = speed = min(level * transfer.weight, transfer.limit)
            for k, use in transfer.uses:
                room[k] = max(room[k] - use * speed, 0.0)
                del users[k][key]
                total[k] = sum(users[k].values())
                if not users[k]:
                    del users[k]
    return speeds
