"""Playing a plan: lanes start their tasks, collectives meet and transfer, on SimPy's clock."""

from __future__ import annotations

from array import array
from functools import partial
from typing import TYPE_CHECKING, Any

from desim.engine import macro
from desim.engine.links import RATE_UNIT, SharedLinks
from desim.plan.tables import COMPUTE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from desim.engine.environment import Clock
    from desim.engine.rank import Rank
    from desim.engine.transfers import Transfer

Member = tuple["Rank", int]


class Player:
    """Plays ranks until their programs end.

    `moved` collects (transfer number, start, end, rate in thousandths of a byte per second) of all
    bytes moved, one after the other; `messages` the two ends of every message as (rank, lane, task
    on the lane).
    """

    def __init__(self, clock: Clock, ranks: Sequence[Rank]) -> None:
        self.clock = clock
        self.ranks = ranks
        self.moved = array("q")
        self.messages: list[tuple[int, int, int, int, int, int]] = []
        self._links = SharedLinks(clock, self._observe)
        for rank in ranks:
            rank.device.ended = partial(self._finished, rank, COMPUTE)
            if rank.yielding:
                rank.device.retimed = partial(self._retimed, rank)

    def run(self) -> None:
        """Play all programs to their end, or until nothing can happen any more."""
        for rank in self.ranks:
            for lane in range(len(rank.tracks)):
                self._advance(rank, lane)
        self.clock.run()
        self._let_go()

    def _let_go(self) -> None:
        """Drop what only playing needs and points back here: all goes with its last user then."""
        for rank in self.ranks:
            rank.device.ended = _nothing
            rank.device.retimed = None
        del self._links

    @property
    def share_done(self) -> float:
        """Share of all segments that have been played."""
        done = sum(sum(rank.next) for rank in self.ranks)
        total = sum(track.number for rank in self.ranks for track in rank.tracks)
        return done / total if total else 1.0

    def _observe(self, transfer: Transfer, start: int, end: int, rate: int) -> None:
        self.moved.extend((transfer.number, start, end, rate))

    def _advance(self, rank: Rank, lane: int) -> None:  # noqa: C901 (a call costs as much as it)
        """Start the lane's next segment, or leave word where it has to be woken."""
        track = rank.tracks[lane]
        at = rank.next[lane]
        if at >= track.number:
            return
        needed = track.wait_lane[at]
        if needed >= 0:
            count = track.wait_count[at]
            if rank.done[needed] < count:
                rank.blocked[needed].append((count, lane))
                return
            if at in track.more:
                for needed, count in track.more[at]:
                    if rank.done[needed] < count:
                        rank.blocked[needed].append((count, lane))
                        return
        task = track.first_task[at]
        host = rank.host
        if task >= host.limit:
            host.blocked.append(lane)
            return
        issued = host.shift + host.issue_ps[task]
        now = self.clock._now
        if issued > now:
            self.clock.after(issued - now, self._woken, (rank, lane))
        elif lane == COMPUTE:
            if at in rank.stretches:
                self._begin_pass(rank, at)
            else:
                rank.device.run(track.first[at], track.first[at + 1])
        elif lane in rank.yielding:
            self._queue(rank, lane)
        else:
            self._arrive(rank, lane, track.comm[at], now)

    def _begin_pass(self, rank: Rank, at: int) -> None:
        """Begin a pass: a macro-task if nothing can interact with it and it was played before."""
        stretch, now = rank.stretches[at], self.clock._now
        begins = macro.isolated(rank, stretch, now)
        known = rank.macros.get(begins) if begins is not None else None
        if known is not None:
            macro.write(rank, stretch, known, now, self.moved)
            self.clock.after(known.length_ps, self._end_pass, (rank, stretch))
            return
        if begins is not None and begins not in rank.macros:
            macro.learn(rank, stretch, begins, self.clock, self.moved)
        first = rank.tracks[COMPUTE].first
        rank.device.run(first[at], first[at + 1])

    def _end_pass(self, event: Any) -> None:
        rank, stretch = event.payload
        macro.finish(rank, stretch)
        for lane in stretch.lanes:
            self._advance(rank, lane)
        self._finished(rank, COMPUTE, stretch.ends[COMPUTE])

    def _woken(self, event: Any) -> None:
        self._advance(*event.payload)

    def _finished(self, rank: Rank, lane: int, count: int) -> None:
        """A segment has ended: `count` tasks of the lane are done; wake what waited for it."""
        rank.done[lane] = count
        rank.next[lane] += 1
        host = rank.host
        if host.lane == lane and count >= host.count:
            for waiting in host.go_on(rank.done, self.clock._now):
                self._advance(rank, waiting)
        blocked = rank.blocked[lane]
        if blocked:
            rank.blocked[lane] = [entry for entry in blocked if entry[0] > count]
            for needed, waiting in blocked:
                if needed <= count:
                    self._advance(rank, waiting)
        self._advance(rank, lane)

    def _queue(self, rank: Rank, lane: int) -> None:
        """A collective whose stream is no better than compute's: kernels go first, once known."""
        rank.queued[lane] = None
        self.clock.late(self._yield, (rank, lane))

    def _yield(self, event: Any) -> None:
        """Let the kernel that runs now end, if the collective needs SMs at all."""
        rank, lane = event.payload
        track, at = rank.tracks[lane], rank.next[lane]
        wait_ps = 0
        if rank.ports[track.comm[at]][1].sms:
            wait_ps = rank.device.kernel_left_ps(track.first_task[at] if rank.one_queue else None)
        if wait_ps:
            tick = self.clock.after(wait_ps, self._admit, (rank, lane))
            rank.queued[lane] = (tick, rank.device.kernel_now())
        else:
            self._admit(event)

    def _retimed(self, rank: Rank) -> None:
        """Kernels go at another speed: who waits for the end of one waits longer, or less."""
        for lane, waiting in rank.queued.items():
            if waiting is None:
                continue
            tick, kernel = waiting
            tick.cancel()
            device = rank.device
            left_ps = device.kernel_left_ps() if device.kernel_now() == kernel else 0
            rank.queued[lane] = (self.clock.after(left_ps, self._admit, (rank, lane)), kernel)

    def _admit(self, event: Any) -> None:
        rank, lane = event.payload
        del rank.queued[lane]
        self._arrive(rank, lane, rank.tracks[lane].comm[rank.next[lane]], self.clock._now)

    def _arrive(self, rank: Rank, lane: int, comm: int, now: int) -> None:
        """A rank has reached a collective: hold its SMs; the last of the group starts it."""
        port = rank.ports[comm]
        assert port is not None, "every collective of a program has a group"
        group, transfer, slot = port
        log = rank.logs[lane]
        log.append(now)
        if group.need == 1:
            log.append(now)
            if transfer.holds:
                rank.device.hold(transfer.sms, transfer.memory_permille)
            self._begin(transfer, ((rank, lane),))
            return
        if transfer.sms:
            rank.device.hold(transfer.sms, 0)
        turn = rank.turns[slot]
        rank.turns[slot] = turn + 1
        present = group.arrive(turn, rank, lane, transfer.size_bytes)
        if present is not None:
            self._start(transfer, present)

    def _start(self, transfer: Transfer, members: Sequence[Member]) -> None:
        """All members are here: hold their memory bandwidth and begin."""
        now = self.clock._now
        for rank, lane in members:
            rank.logs[lane].append(now)
            if transfer.memory_permille:
                rank.device.hold(0, transfer.memory_permille)
        self._begin(transfer, members)

    def _begin(self, transfer: Transfer, members: Sequence[Member]) -> None:
        """Start the transfer; one that may run beside compute once it is known whether it does."""
        if transfer.unhindered is None or any(rank.device.computes() for rank, _ in members):
            self._transfer(transfer, members)
        else:
            self.clock.late(self._pace, (transfer, members))

    def _pace(self, event: Any) -> None:
        """Go at full speed where no member computes at the end of the instant."""
        transfer, members = event.payload
        computing = any(rank.device.computes() for rank, _ in members)
        self._transfer(transfer if computing else transfer.unhindered, members)

    def _transfer(self, transfer: Transfer, members: Sequence[Member]) -> None:
        """Pay the latency, then let the bytes flow."""
        if transfer.fixed_ps >= 0:
            self.clock.after(transfer.fixed_ps, self._transferred, (transfer, members))
        else:
            self.clock.after(transfer.latency_ps, self._flow, (transfer, members))

    def _flow(self, event: Any) -> None:
        transfer, members = event.payload
        self._links.start(transfer, partial(self._complete, transfer, members), members)

    def _transferred(self, event: Any) -> None:
        transfer, members = event.payload
        now = self.clock._now
        if transfer.rate_bytes_per_s:
            rate = int(transfer.rate_bytes_per_s * transfer.limit * RATE_UNIT)
            self._observe(transfer, now - transfer.fixed_ps + transfer.latency_ps, now, rate)
        self._complete(transfer, members)

    def _complete(self, transfer: Transfer, members: Sequence[Member]) -> None:
        """Every member's task is done: give back what it held, go on."""
        now = self.clock._now
        for rank, lane in members:
            rank.logs[lane].append(now)
            if transfer.holds:
                rank.device.hold(-transfer.sms, -transfer.memory_permille)
        if transfer.is_message:
            (a, a_lane), (b, b_lane) = members
            ends = (a.index, a_lane, a.done[a_lane], b.index, b_lane, b.done[b_lane])
            self.messages.append(ends)
        for rank, lane in members:
            self._finished(rank, lane, rank.done[lane] + 1)


def _nothing(_: int) -> None:
    """What the end of a run of kernels means when all has been played."""
