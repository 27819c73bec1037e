"""Macro-tasks: a pass that nothing else can interact with is played once, then copied.

Where a rank begins a pass while nothing of it is under way on another lane, its other lanes wait
for the end of the pass or of later ones, and all collectives in it are the rank class's own, what
happens until the pass ends follows from the program and from how far the host is ahead alone. The
first such pass is played and what it logged is kept; where the same one begins again, the logs are
written at once, moved in time, and one event ends it. Every task has the same times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from desim.engine.inline import solo_ps
from desim.engine.rank import MEETING
from desim.plan.tables import COMPUTE
from desim.record import LANES

if TYPE_CHECKING:
    from array import array

    from numpy.typing import NDArray

    from desim.engine.environment import Clock
    from desim.engine.rank import Rank


class Stretch(NamedTuple):
    """A pass of a program whose first and last kernel are ends of segments.

    `counts` are the tasks before it by lane, `ends` those before its end; `lanes` are the lanes
    beside the compute lane that it has tasks on, `segment` the compute lane's last one in it.
    """

    template: int
    end_task: int
    counts: tuple[int, ...]
    ends: tuple[int, ...]
    lanes: tuple[int, ...]
    segment: int


class Beginning(NamedTuple):
    """What decides how a pass goes with which nothing interacts.

    Which pass it is, the tasks of its lanes that are done ahead of it, and by how much the host
    will issue its last task only later (0: it has).
    """

    template: int
    done: tuple[int, ...]
    ahead_ps: int


@dataclass(frozen=True, slots=True)
class Macro:
    """What a pass logged, relative to its begin: of the device, of the lanes, of bytes moved."""

    length_ps: int
    pieces: NDArray[np.int64]
    logs: tuple[NDArray[np.int64], ...]
    moved: NDArray[np.int64]


def find_stretches(rank: Rank) -> dict[int, Stretch]:
    """The passes of a rank that may be macro-tasks, by the compute segment that begins them."""
    program, track = rank.score.program, rank.tracks[COMPUTE]
    if not len(program.placements) or not track.number:
        return {}
    rows, opening, closing = _candidates(rank)
    before = _before(program.lane, rows[:, :2])
    found = {}
    for at, (template, end) in enumerate(rows[:, [2, 1]].tolist()):
        counts, ends = tuple(before[:, at, 0].tolist()), tuple(before[:, at, 1].tolist())
        used = tuple(lane for lane in range(1, len(ends)) if ends[lane] > counts[lane])
        last = int(closing[at]) - 1
        found[int(opening[at])] = Stretch(template, end, counts, ends, used, last)
    return found


def _candidates(rank: Rank) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Placements that may be macro-tasks, with the compute segments that begin and follow them.

    The host must not stop inside, whatever is not a kernel must be this rank class's own, both ends
    must be ends of segments, and there must be more inside than one segment.
    """
    program = rank.score.program
    solo = np.array([solo_ps(port) >= 0 for port in rank.ports] + [True])
    alien = np.cumsum(np.append(False, ~solo[program.comm]))
    kernels = np.cumsum(np.append(False, program.lane == COMPUTE))
    stops = np.append(program.host_waits[:, 0], len(program) + 1)
    segments = np.array(rank.tracks[COMPUTE].first)
    first, end, _ = program.placements.T
    opening = np.searchsorted(segments, kernels[first])
    closing = np.searchsorted(segments, kernels[end])
    kept = (stops[np.searchsorted(stops, first, side="right")] >= end) & (
        alien[first] == alien[end]
    )
    kept &= (segments[opening] == kernels[first]) & (segments[closing] == kernels[end])
    others = end - first > kernels[end] - kernels[first]
    kept &= (closing > opening + 1) | (others & (closing > opening))
    return program.placements[kept], opening[kept], closing[kept]


def _before(lane: NDArray[np.int8], places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Tasks of every lane before each place."""
    before = np.zeros((len(LANES), *places.shape), dtype=np.int64)
    for number in np.flatnonzero(np.bincount(lane)).tolist():
        tasks = np.flatnonzero(lane == number)
        before[number] = np.searchsorted(tasks, places)
    return before


def isolated(rank: Rank, stretch: Stretch, now: int) -> Beginning | None:
    """How a pass begins now, if nothing else can interact with it until it ends; else None."""
    device, host = rank.device, rank.host
    if device.sms or device.memory or host.limit < stretch.end_task or rank.queued:
        return None
    if not _waits_for_end(host.lane, host.count, stretch):
        return None
    waiting = {*host.blocked, *stretch.lanes}
    for awaited, entries in enumerate(rank.blocked):
        for count, lane in entries:
            if lane not in stretch.lanes and not _waits_for_end(awaited, count, stretch):
                return None
            waiting.add(lane)
    for lane in range(1, len(rank.tracks)):
        if lane not in waiting and rank.next[lane] < rank.tracks[lane].number:
            return None
    if any(len(rank.logs[lane]) % MEETING for lane in stretch.lanes):
        return None
    ahead = now - host.shift - host.issue_ps[stretch.end_task - 1]
    done = tuple([rank.done[lane] - stretch.counts[lane] for lane in stretch.lanes])
    return Beginning(stretch.template, done, min(ahead, 0))


def _waits_for_end(awaited: int, count: int, stretch: Stretch) -> bool:
    """Whether what waits for `count` tasks of a lane waits until the pass ends, or longer."""
    end = stretch.ends[awaited]
    return count >= end if awaited == COMPUTE else count > end


def learn(rank: Rank, stretch: Stretch, begins: Beginning, clock: Clock, moved: array[int]) -> None:
    """Keep what the pass that begins now logs, once it has ended on all lanes; then go on."""
    device, ended = rank.device, rank.device.ended
    begin = _Begin(clock._now, len(device.pieces), tuple(map(len, rank.logs)), len(moved))

    def at_end(kernel: int) -> None:
        if kernel == stretch.ends[COMPUTE]:
            device.ended = ended
            rank.macros[begins] = _logged(rank, stretch, begin, clock._now, moved)
        ended(kernel)

    device.ended = at_end


class _Begin(NamedTuple):
    """When a pass began, and the lengths of the logs then."""

    now_ps: int
    pieces: int
    logs: tuple[int, ...]
    moved: int


def _logged(
    rank: Rank, stretch: Stretch, begin: _Begin, now: int, moved: array[int]
) -> Macro | None:
    """What a pass that ends now has logged; None where a lane has not ended or has gone on."""
    device = rank.device
    joined = all(rank.done[lane] == stretch.ends[lane] for lane in stretch.lanes)
    flying = any(len(rank.logs[lane]) % MEETING for lane in range(1, len(rank.logs)))
    if not joined or flying or device.sms or device.memory:
        return None
    pieces = np.array(device.pieces[begin.pieces :], dtype=np.int64).reshape(-1, 4)
    pieces[:, 0] -= begin.now_ps
    pieces[:, 1] -= stretch.counts[COMPUTE]
    own = {port[1].number for port in rank.ports if solo_ps(port) >= 0 and port is not None}
    rows = np.array(moved[begin.moved :], dtype=np.int64).reshape(-1, 4)
    rows = rows[np.isin(rows[:, 0], list(own))]
    rows[:, 1:3] -= begin.now_ps
    logs = (np.array(log[at:], np.int64) for log, at in zip(rank.logs, begin.logs, strict=True))
    return Macro(now - begin.now_ps, pieces, tuple(log - begin.now_ps for log in logs), rows)


def write(rank: Rank, stretch: Stretch, macro: Macro, now: int, moved: array[int]) -> None:
    """Log a pass that begins now as it was when it was played; its lanes rest until it ends."""
    pieces = macro.pieces.copy()
    pieces[:, 0] += now
    pieces[:, 1] += stretch.counts[COMPUTE]
    rank.device.pieces.frombytes(pieces.tobytes())
    for lane in stretch.lanes:
        rank.logs[lane].frombytes((macro.logs[lane] + now).tobytes())
        rank.next[lane] = rank.tracks[lane].number
    rows = macro.moved.copy()
    rows[:, 1:3] += now
    moved.frombytes(rows.tobytes())


def finish(rank: Rank, stretch: Stretch) -> None:
    """Count the tasks of a pass that ends now as done, but for those of its last segment."""
    rank.next[COMPUTE] = stretch.segment
    for lane in stretch.lanes:
        rank.done[lane] = rank.next[lane] = stretch.ends[lane]
    gone = stretch.lanes
    rank.host.blocked = [lane for lane in rank.host.blocked if lane not in gone]
    rank.blocked = [[e for e in entries if e[1] not in gone] for entries in rank.blocked]
