"""A player that leaves micro-batches out where they repeat.

A plan was built without some of the equal periods in the middle of each step (`plan/repeat.py`).
At the ends of those that are left the state of each part of the job (`parts.py`) is noted; where
that says what the missing ones would have come to (`left_out.py`), as much time passes for the part
before it goes on.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from desim.engine.left_out import Look, at_pace, goes_on, repeating
from desim.engine.log import Log
from desim.engine.parts import parts_of
from desim.engine.play import Player
from desim.engine.state import Part
from desim.plan.tables import COMPUTE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from desim.engine.environment import Clock
    from desim.engine.left_out import Gone
    from desim.engine.rank import Rank


@dataclass(slots=True)
class Watch:
    """What is seen of a part in one step: its looks, the ends of its ranks' periods.

    `gone` is what was left out, `open` after how many more looks that has to be confirmed.
    """

    part: Part
    log: Log
    step: int
    looks: list[Look] = field(default_factory=list)
    ends_ps: dict[int, list[int]] = field(default_factory=dict)
    gone: Gone | None = None
    open: int = 0


class SteadyPlayer(Player):
    """A player that looks at the state of each part whenever its watched rank ends a period.

    `watches` holds what it saw of each part in each step. With `at_pace` the pace of the last
    periods will do where the state does not repeat. Where a part comes to the end of its periods
    without either, nothing more is played.
    """

    def __init__(self, clock: Clock, ranks: Sequence[Rank], *, at_pace: bool) -> None:
        super().__init__(clock, ranks)
        self._at_pace = at_pace
        self._left_out = ranks[0].score.program.left_out
        self._ends = [array("q") for _ in ranks]
        self._marks: list[dict[int, tuple[Watch, int]]] = [{} for _ in ranks]
        self.watches: list[Watch] = []
        for members in parts_of(ranks):
            part = Part(members, clock, self._links)
            log = Log(members, self._ends, self.moved)
            for step in range(len(ranks[0].score.program.repeats)):
                self._watch(Watch(part, log, step))

    def _watch(self, watch: Watch) -> None:
        self.watches.append(watch)
        for rank in watch.part.ranks:
            repeat = rank.score.program.repeats[watch.step]
            watch.ends_ps[rank.index] = []
            for period in range(1, repeat.periods):
                self._marks[rank.index][repeat.count(COMPUTE, period)] = (watch, period)

    @property
    def folded(self) -> bool:
        """Whether every part has left its periods out in every step."""
        return all(watch.gone is not None and not watch.open for watch in self.watches)

    def _finished(self, rank: Rank, lane: int, count: int) -> None:
        if lane == COMPUTE:
            now = self.clock._now
            self._ends[rank.index].append(now)
            if count in self._marks[rank.index]:
                watch, period = self._marks[rank.index][count]
                watch.ends_ps[rank.index].append(now)
                if rank is watch.part.watched and (watch.gone is None or watch.open):
                    self.clock.late(self._look, _Due(watch, period))
        super()._finished(rank, lane, count)

    def _look(self, event: Any) -> None:
        due: _Due = event.payload
        if self._links.unsettled:
            self.clock.late(self._look, due)
            return
        watch, period = due.watch, due.period
        repeats = [rank.score.program.repeats[watch.step] for rank in watch.part.ranks]
        place = watch.log.place([repeat.count(COMPUTE, period) for repeat in repeats])
        state = watch.part.state(watch.step, period)
        watch.looks.append(Look(self.clock._now, state, place))
        if watch.gone is None:
            last = period == watch.part.watched.score.program.repeats[watch.step].periods - 1
            self._try(watch, last=last)
        else:
            self._confirm(watch)

    def _try(self, watch: Watch, *, last: bool) -> None:
        """Leave periods out if it is known what they come to, at the latest after the `last`."""
        gone = repeating(watch.looks, watch.log, self._left_out)
        if gone is None and last and self._at_pace:
            gone = at_pace(watch.looks, list(watch.ends_ps.values()), self._left_out)
        if gone is not None and watch.part.skip(gone.length_ps, gone.drifted_ps):
            watch.gone = gone
            watch.open = gone.periods if any(gone.drift_ps) else 0
        elif last:
            self.clock.clear()

    def _confirm(self, watch: Watch) -> None:
        """Compare what comes after the periods left out with what came before them."""
        assert watch.gone is not None
        watch.open -= 1
        if not watch.open and not goes_on(watch.looks, watch.log, watch.gone):
            watch.gone = None
            self.clock.clear()


@dataclass(frozen=True, slots=True)
class _Due:
    """A look that is to be taken at the end of this instant."""

    watch: Watch
    period: int
