"""The host of a rank: it issues tasks ahead of the device and stops where it has to wait."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from desim.engine.tracks import Score


class Host:
    """Issues the tasks of a program one after the other.

    Between two waits task t is issued at `shift` + `issue_ps[t]`; tasks from `limit` on are not
    issued before `count` tasks of lane `lane` are done. `blocked` are the lanes whose next task
    is not issued yet. `log` holds (task, shift): from that task on the host issues `shift` later
    than it would have without waiting.
    """

    __slots__ = (
        "at",
        "blocked",
        "count",
        "issue_ps",
        "lane",
        "limit",
        "log",
        "shift",
        "waits",
    )

    def __init__(self, score: Score) -> None:
        self.issue_ps = score.issue_ps
        self.waits = score.host_waits
        self.shift = 0
        self.at = 0
        self.limit, self.lane, self.count = score.host_waits[0]
        self.blocked: list[int] = []
        self.log = array("q")

    def go_on(self, done: list[int], now: int) -> list[int]:
        """Pass the wait whose mark is reached now and all that are reached already.

        `done` counts the tasks done on each lane. The host goes on now, or when it would have got
        there anyway. Returns the lanes that can try again.
        """
        before = self.limit - 1
        spent = self.issue_ps[before] if before >= 0 else 0
        self.shift = max(self.shift, now - spent)
        self.log.extend((self.limit, self.shift, self.at))
        at = self.at + 1
        while done[self.waits[at][1]] >= self.waits[at][2]:
            at += 1
        self.at = at
        self.limit, self.lane, self.count = self.waits[at]
        blocked, self.blocked = self.blocked, []
        return blocked
