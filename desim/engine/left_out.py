"""Time folding: how long the periods of micro-batches that a plan leaves out would have taken.

What happens next depends on the state of the engine and on what the programs say from there on.
Where the state of a part of the job after some periods is the state before them, moved on by these
periods in every program and in time, and no lane has looked past the periods, those left out would
each have ended in that state again: the part does the same, later by their length.

Often the state repeats but for some times that drift: a stage with a bit less to do gets further
ahead with every micro-batch, and nobody ever waits for it. All that the engine does with times is
to add durations and to take the latest (of marks, members of a group, host and device), as long as
what shares a device or a link keeps to its order; so while the same things are waited for, every
time moves by the same amount each period. If it does so in the last periods that are played before
those left out and again in the first one after them, and if in both ranks and links do the same
things in the same order for as long, then it does so in between too: whether one time is later than
another changes once at most where both move evenly. Nothing is approximated either.

Where an approximation will do, the periods left out are taken to be as long as the last one was, if
those before it agree with it on all ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from desim.engine.log import Log, Place
    from desim.engine.state import State

#: Periods of ranks that differ by less than this share agree.
TOLERANCE = 1e-3
#: So many of the last periods (or cycles of periods) have to agree.
_AGREEING = 3


@dataclass(frozen=True, slots=True)
class Look:
    """What is seen of a part at the end of a period; no state where a lane is not inside them."""

    now_ps: int
    state: State | None
    place: Place


@dataclass(frozen=True, slots=True)
class Gone:
    """What the periods left out come to: their length, and how far the times of the state drift.

    `drift_ps` is for one cycle of `periods`, of which `cycles` are left out; `did` is what happened
    in one where times drift.
    """

    length_ps: int
    drift_ps: tuple[int, ...]
    periods: int
    cycles: int
    did: tuple[Any, ...] = ()

    @property
    def drifted_ps(self) -> tuple[int, ...]:
        """How far the times of the state are moved by all cycles."""
        return tuple(drift * self.cycles for drift in self.drift_ps)


def repeating(looks: Sequence[Look], log: Log, left_out: int) -> Gone | None:
    """The periods left out, where the state at the last look is that of one before it.

    Where times drift they must have done so before, with the same things happening.
    """
    for periods in range(1, len(looks)):
        if left_out % periods:
            continue
        drift = drift_between(looks[-1 - periods], looks[-1])
        did = _did(looks, log, periods, drift) if drift is not None and any(drift) else ()
        if drift is not None and did is not None:
            cycles = left_out // periods
            length = cycles * (looks[-1].now_ps - looks[-1 - periods].now_ps)
            return Gone(length, drift, periods, cycles, did)
    return None


def drift_between(first: Look, last: Look) -> tuple[int, ...] | None:
    """By how much the times of the state move from one look to another; None if more differs."""
    if first.state is None or last.state is None or first.state.shape != last.state.shape:
        return None
    times = zip(first.state.times_ps, last.state.times_ps, strict=True)
    return tuple(after - before for before, after in times)


def _did(
    looks: Sequence[Look], log: Log, periods: int, drift: tuple[int, ...]
) -> tuple[Any, ...] | None:
    """What happened in the last cycle, if the one before was as long, did and drifted the same."""
    if len(looks) <= 2 * periods:
        return None
    first, middle, last = looks[-1 - 2 * periods], looks[-1 - periods], looks[-1]
    as_long = last.now_ps - middle.now_ps == middle.now_ps - first.now_ps
    if not as_long or drift_between(first, middle) != drift:
        return None
    did = log.between(middle.place, last.place)
    return did if log.between(first.place, middle.place) == did else None


def goes_on(looks: Sequence[Look], log: Log, gone: Gone) -> bool:
    """Whether the first cycle after those left out is as the last one before them.

    The last looks are the one at which they were left out and those after it.
    """
    here, after = looks[-1 - gone.periods], looks[-1]
    if (after.now_ps - here.now_ps - gone.length_ps) * gone.cycles != gone.length_ps:
        return False
    if drift_between(here, after) != tuple(d * (gone.cycles + 1) for d in gone.drift_ps):
        return False
    return log.between(here.place, after.place) == gone.did


def at_pace(looks: Sequence[Look], ends_ps: Sequence[Sequence[int]], left_out: int) -> Gone | None:
    """The periods left out at the pace of the last ones, where all ranks keep it.

    `ends_ps` are the ends of the periods of each rank, whose host's time comes first among those
    of a state.
    """
    states = [(look.now_ps, look.state) for look in looks if look.state is not None]
    if len(states) < 2 or not _hosts_keep_up(states, len(ends_ps), left_out):
        return None
    last_ps, last = states[-1]
    ended_ps = [[end for end in ends if end <= last_ps] for ends in ends_ps]
    most = (min(map(len, ended_ps)) - 1) // _AGREEING
    for periods in range(1, most + 1):
        cycles = [length for ends in ended_ps for length in _last_cycles(ends, periods)]
        if max(cycles) - min(cycles) <= TOLERANCE * min(cycles):
            longest = max(_last_cycles(ends, periods)[0] for ends in ended_ps)
            drift = (0,) * len(last.times_ps)
            return Gone(round(left_out / periods * longest), drift, periods, left_out // periods)
    return None


def _last_cycles(ends_ps: Sequence[int], periods: int) -> list[int]:
    """Lengths of the last cycles of `periods` periods of a rank."""
    ends = [ends_ps[-1 - periods * back] for back in range(_AGREEING + 1)]
    return [late - early for late, early in zip(ends, ends[1:], strict=False)]


def _hosts_keep_up(states: Sequence[tuple[int, State]], ranks: int, left_out: int) -> bool:
    """Whether every host keeps the pace, or is still a period ahead after those left out."""
    (began_ps, first), (ended_ps, last) = states[0], states[-1]
    periods, played_ps = len(states) - 1, ended_ps - began_ps
    return all(
        before - after <= TOLERANCE * played_ps
        or after * periods - (before - after) * left_out > played_ps
        for before, after in zip(first.times_ps[:ranks], last.times_ps[:ranks], strict=True)
    )
