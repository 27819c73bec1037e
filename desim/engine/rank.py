"""A played rank: its device, its host and where its lanes stand."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from desim.engine.devices import Device
from desim.engine.host import Host
from desim.plan.tables import SLOTS
from desim.record import LANES

if TYPE_CHECKING:
    from desim.engine.environment import Clock, Tick
    from desim.engine.macro import Beginning, Macro, Stretch
    from desim.engine.rendezvous import Group
    from desim.engine.timing import Timing
    from desim.engine.tracks import Score
    from desim.engine.transfers import Transfer

#: Where a rank takes part in a collective: the group, what it does to the network, the slot.
Port = tuple["Group", "Transfer", int]


#: Numbers of an entry in the log of a lane: (ready, start, end).
MEETING = 3


class Rank:
    """The representative of a rank class while it is played.

    `next[lane]` is the lane's next segment, `done[lane]` counts its tasks done, `blocked[lane]`
    lists (count, lane) of lanes that wait for that count. `turns[slot]` counts arrivals.
    `logs[lane]` holds (ready, start, end) of every collective. `stretches` are the passes that may
    be macro-tasks (`macro.py`), by their first segment, `macros` what is known of them. `yielding`
    are the lanes whose collectives let the kernel that runs end before they take SMs (with
    `one_queue` only one that was issued before), `queued` those of them that wait for it: when they
    will be woken, and which kernel it is.
    """

    __slots__ = (
        "blocked",
        "device",
        "done",
        "host",
        "index",
        "logs",
        "macros",
        "next",
        "one_queue",
        "ports",
        "queued",
        "score",
        "stretches",
        "tracks",
        "turns",
        "yielding",
    )

    def __init__(
        self, clock: Clock, index: int, score: Score, timing: Timing, ports: list[Port | None]
    ) -> None:
        self.index = index
        self.score = score
        self.tracks = score.tracks
        self.ports = ports
        self.host = Host(score)
        self.device = Device(clock, timing, self.host, score.task_of_kernel)
        self.next = [0] * len(LANES)
        self.done = [0] * len(LANES)
        self.blocked: list[list[tuple[int, int]]] = [[] for _ in LANES]
        self.turns = [0] * len(SLOTS)
        self.logs = [array("q") for _ in LANES]
        self.stretches: dict[int, Stretch] = {}
        self.macros: dict[Beginning, Macro | None] = {}
        self.yielding: frozenset[int] = frozenset()
        self.one_queue = False
        self.queued: dict[int, tuple[Tick, int] | None] = {}

    @property
    def finished(self) -> bool:
        """Whether every lane has played all its segments."""
        return all(at == track.number for at, track in zip(self.next, self.tracks, strict=True))
