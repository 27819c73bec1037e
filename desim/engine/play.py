"""Playing a plan: lanes, host, rendezvous and re-timed compute on SimPy's clock."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from typing import TYPE_CHECKING, Any

from desim.engine.environment import Clock
from desim.engine.links import SharedLinks
from desim.plan.tables import COMPUTE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from desim.engine.rank import Rank
    from desim.engine.transfers import Transfer

Member = tuple["Rank", int]


class Player:
    """Plays ranks until their programs end.

    `moved` collects (transfer number, start, end, rate in thousandths of a byte per second) of all
    bytes moved, one after the other; `messages` the two ends of every message as (rank, lane, task on the lane).
    """

    def __init__(self, ranks: Sequence[Rank]) -> None:
        self.clock = Clock()
        self.ranks = ranks
        self.moved = array("q")
        self.messages: list[tuple[int, int, int, int, int, int]] = []
        self._links = SharedLinks(self.clock, self._observe)

    def run(self) -> None:
        """Play all programs to their end, or until nothing can happen any more."""
        for rank in self.ranks:
            for lane in range(len(rank.tracks)):
                self._advance(rank, lane)
        self.clock.run()

    @property
    def share_done(self) -> float:
        """Share of all segments that have been played."""
        done = sum(sum(rank.next) for rank in self.ranks)
        total = sum(track.number for rank in self.ranks for track in rank.tracks)
        return done / total if total else 1.0

    def _observe(self, transfer: Transfer, start: int, end: int, rate: int) -> None:
        self.moved.extend((transfer.number, start, end, rate))

    # Lanes

    def _advance(self, rank: Rank, lane: int) -> None:
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
        if task >= rank.issue_limit:
            rank.host_blocked.append(lane)
            return
        issued = rank.host_shift + rank.issue_ps[task]
        now = self.clock._now
        if issued > now:
            self.clock.after(issued - now, self._woken, (rank, lane))
        elif lane == COMPUTE:
            rank.segment_end = track.first[at + 1]
            self._run(rank, track.first[at], now)
        else:
            self._arrive(rank, lane, track.comm[at], now)

    def _woken(self, event: Any) -> None:
        self._advance(*event.payload)

    def _finished(self, rank: Rank, lane: int, count: int) -> None:
        """A segment has ended: `count` tasks of the lane are done; wake what waited for it."""
        rank.done[lane] = count
        rank.next[lane] += 1
        if rank.host_lane == lane and count >= rank.host_count:
            self._release_host(rank)
        blocked = rank.blocked[lane]
        if blocked:
            rank.blocked[lane] = [entry for entry in blocked if entry[0] > count]
            for needed, waiting in blocked:
                if needed <= count:
                    self._advance(rank, waiting)
        self._advance(rank, lane)

    def _release_host(self, rank: Rank) -> None:
        """The host goes on from where it waited, now or when it would have got there anyway."""
        waits = rank.score.host_waits
        before = rank.issue_limit - 1
        spent = rank.issue_ps[before] if before >= 0 else 0
        rank.host_shift = max(rank.host_shift, self.clock._now - spent)
        rank.host_log.extend((rank.issue_limit, rank.host_shift))
        at = rank.host_at + 1
        while rank.done[waits[at][1]] >= waits[at][2]:
            at += 1
        rank.host_at = at
        rank.issue_limit, rank.host_lane, rank.host_count = waits[at]
        blocked, rank.host_blocked = rank.host_blocked, []
        for lane in blocked:
            self._advance(rank, lane)

    # Compute

    def _run(self, rank: Rank, kernel: int, now: int) -> None:
        """Run kernels from `kernel` to the segment's end, or as far as the host has come."""
        timing = rank.timing
        number = timing.number((rank.sms, rank.memory))
        rank.load_number = number
        rank.sums = sums = timing.sums(number)
        rank.running = True
        rank.run_start, rank.kernel, rank.left, rank.whole = now, kernel, 1, 1
        end = rank.segment_end
        last = rank.score.task_of_kernel[end - 1]
        rank.limited = rank.host_shift + rank.issue_ps[last] > now
        if rank.limited:
            end = self._reach(rank, kernel, now, end)
        rank.run_end = end
        rank.pieces.extend((now, kernel, -1, number))
        rank.tick = self.clock.after(sums[end] - sums[kernel], self._run_done, rank)

    def _reach(self, rank: Rank, kernel: int, started: int, end: int) -> int:
        """First kernel after `kernel` that the host issues only after its turn has come."""
        sums, tasks, issue_ps = rank.sums, rank.score.task_of_kernel, rank.issue_ps
        offset = started - sums[kernel] - rank.host_shift
        for k in range(kernel + 1, end):
            if issue_ps[tasks[k]] > offset + sums[k]:
                return k
        return end

    def _run_done(self, event: Any) -> None:
        rank: Rank = event.payload
        rank.running = False
        end = rank.run_end
        if end == rank.segment_end:
            self._finished(rank, COMPUTE, end)
        else:
            issued = rank.host_shift + rank.issue_ps[rank.score.task_of_kernel[end]]
            self.clock.after(issued - self.clock._now, self._resume, rank)

    def _resume(self, event: Any) -> None:
        rank: Rank = event.payload
        self._run(rank, rank.run_end, self.clock._now)

    def _retime(self, rank: Rank) -> None:
        """Go on with the running kernels at the speed that the communication beside them leaves."""
        number = rank.timing.number((rank.sms, rank.memory))
        if number == rank.load_number:
            return
        now = self.clock._now
        if now == rank.run_start:
            del rank.pieces[-4:]
        elif not self._mark_progress(rank, now):
            return
        rank.load_number = number
        rank.sums = sums = rank.timing.sums(number)
        kernel = rank.kernel
        first = -(-rank.left * (sums[kernel + 1] - sums[kernel]) // rank.whole)
        if rank.limited:
            begun = now + first - (sums[kernel + 1] - sums[kernel])
            rank.run_end = self._reach(rank, kernel, begun, rank.segment_end)
        rank.pieces.extend((now, kernel, -1 if rank.left == rank.whole else first, number))
        assert rank.tick is not None
        rank.tick.cancel()
        left = first + sums[rank.run_end] - sums[kernel + 1]
        rank.tick = self.clock.after(left, self._run_done, rank)

    def _mark_progress(self, rank: Rank, now: int) -> bool:
        """Note which kernel runs now and what is left of it; False if the run ends this instant."""
        sums, kernel = rank.sums, rank.kernel
        whole = sums[kernel + 1] - sums[kernel]
        first = -(-rank.left * whole // rank.whole)
        passed = now - rank.run_start
        if passed >= first:
            target = sums[kernel + 1] + passed - first
            if target >= sums[rank.run_end]:
                return False
            kernel = bisect_right(sums, target, kernel + 1, rank.run_end + 1) - 1
            whole = sums[kernel + 1] - sums[kernel]
            first, passed = sums[kernel + 1] - target, 0
        rank.run_start, rank.kernel = now, kernel
        rank.left, rank.whole = first - passed, whole
        return True

    # Communication

    def _arrive(self, rank: Rank, lane: int, comm: int, now: int) -> None:
        """A rank has reached a collective: hold its SMs; the last of the group starts it."""
        port = rank.ports[comm]
        assert port is not None, "every collective of a program has a group"
        group, transfer, slot = port
        rank.logs[lane].append(now)
        if transfer.sms:
            rank.sms += transfer.sms
        if group.need == 1:
            self._start(transfer, ((rank, lane),))
            return
        if transfer.sms and rank.running:
            self._retime(rank)
        turn = rank.sequence[slot]
        rank.sequence[slot] = turn + 1
        present = group.waiting.setdefault(turn, [])
        present.append((rank, lane, transfer))
        if len(present) == group.need:
            del group.waiting[turn]
            self._start(transfer, [(member, where) for member, where, _ in present])

    def _start(self, transfer: Transfer, members: Sequence[Member]) -> None:
        """All members are here: pay the latency, then let the bytes flow."""
        now = self.clock._now
        for rank, lane in members:
            rank.logs[lane].append(now)
            if transfer.memory_permille or transfer.sms:
                rank.memory += transfer.memory_permille
                if rank.running:
                    self._retime(rank)
        if transfer.fixed_ps >= 0:
            self.clock.after(transfer.fixed_ps, self._transferred, (transfer, members))
        else:
            self.clock.after(transfer.latency_ps, self._flow, (transfer, members))

    def _flow(self, event: Any) -> None:
        transfer, members = event.payload
        self._links.start(transfer, _call(self._complete, transfer, members))

    def _transferred(self, event: Any) -> None:
        transfer, members = event.payload
        now = self.clock._now
        if transfer.rate_bytes_per_s:
            rate = int(transfer.rate_bytes_per_s * transfer.limit * 1000)
            self._observe(transfer, now - transfer.fixed_ps + transfer.latency_ps, now, rate)
        self._complete(transfer, members)

    def _complete(self, transfer: Transfer, members: Sequence[Member]) -> None:
        """Every member's task is done: release what it held, go on."""
        now = self.clock._now
        for rank, lane in members:
            rank.logs[lane].append(now)
            if transfer.sms or transfer.memory_permille:
                rank.sms -= transfer.sms
                rank.memory -= transfer.memory_permille
                if rank.running:
                    self._retime(rank)
        if transfer.is_message:
            self._note_message(members)
        for rank, lane in members:
            self._finished(rank, lane, rank.done[lane] + 1)

    def _note_message(self, members: Sequence[Member]) -> None:
        (a, a_lane), (b, b_lane) = members
        ends = (a.index, a_lane, a.done[a_lane], b.index, b_lane, b.done[b_lane])
        self.messages.append(ends)


def _call(
    function: Callable[[Transfer, Sequence[Member]], None],
    transfer: Transfer,
    members: Sequence[Member],
) -> Callable[[], None]:
    def done() -> None:
        function(transfer, members)

    return done
