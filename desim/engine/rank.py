"""A played rank: where its lanes stand, what its host has issued, what it logged."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from desim.plan.tables import SLOTS
from desim.record import LANES

if TYPE_CHECKING:
    from desim.engine.environment import Tick
    from desim.engine.timing import Timing
    from desim.engine.tracks import Score
    from desim.engine.transfers import Transfer


class Group:
    """The rendezvous of one group colour: nth arrivals of all its members meet."""

    __slots__ = ("need", "number", "waiting")

    def __init__(self, number: int, need: int) -> None:
        self.number = number
        self.need = need
        self.waiting: dict[int, list[tuple[Rank, int, Transfer]]] = {}


class Rank:
    """The representative of a rank class while it is played.

    Compute runs as runs of kernels: `run_start`, `kernel`, `left`/`whole` say when the current
    speed began, which kernel ran then and what part of it was left. `pieces` logs (time, kernel,
    time left of that kernel or -1 for a fresh one, load number) for every change; `logs[lane]`
    logs (ready, start, end) of every collective; `host_log` logs (task, shift): from that task on
    the host issues `shift` later than it would have without waiting.
    """

    __slots__ = (
        "blocked",
        "done",
        "host_at",
        "host_blocked",
        "host_count",
        "host_lane",
        "host_log",
        "host_shift",
        "index",
        "issue_limit",
        "issue_ps",
        "kernel",
        "left",
        "limited",
        "load_number",
        "logs",
        "memory",
        "next",
        "pieces",
        "ports",
        "run_end",
        "run_start",
        "running",
        "score",
        "segment_end",
        "sequence",
        "sms",
        "sums",
        "tick",
        "timing",
        "tracks",
        "whole",
    )

    def __init__(
        self,
        index: int,
        score: Score,
        timing: Timing,
        ports: list[tuple[Group, Transfer, int] | None],
    ) -> None:
        self.index = index
        self.score = score
        self.timing = timing
        self.ports = ports
        self.tracks = score.tracks
        self.issue_ps = score.issue_ps
        self.next = [0] * len(LANES)
        self.done = [0] * len(LANES)
        self.blocked: list[list[tuple[int, int]]] = [[] for _ in LANES]
        self.sequence = [0] * len(SLOTS)
        self.host_shift = 0
        self.host_at = 0
        self.issue_limit, self.host_lane, self.host_count = score.host_waits[0]
        self.host_blocked: list[int] = []
        self.host_log = array("q")
        self.running = False
        self.limited = False
        self.run_start = self.kernel = self.run_end = self.segment_end = 0
        self.left = self.whole = 1
        self.sms = self.memory = 0
        self.load_number = -1
        self.sums: list[int] = []
        self.tick: Tick | None = None
        self.pieces = array("q")
        self.logs = [array("q") for _ in LANES]

    @property
    def finished(self) -> bool:
        """Whether every lane has played all its segments."""
        return all(at == track.number for at, track in zip(self.next, self.tracks, strict=True))
