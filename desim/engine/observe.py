"""From what the player logged to the record: spans, links, memory, messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from desim.network.topology import LINK_KINDS
from desim.plan.ledger import timed
from desim.plan.tables import COMPUTE
from desim.record import LANES, Causes, Flow, LinkClass, Memory, RankClass, Record, Spans

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from desim.engine.play import Player
    from desim.engine.rank import Rank
    from desim.engine.transfers import Transfer
    from desim.plan.build import Plan

_KEPT_CLASSES = 64

Times = tuple["NDArray[np.int64]", "NDArray[np.int64]"]


def observe(plan: Plan, player: Player, transfers: list[Transfer], wall_s: float) -> Record:
    """Build the record of a finished run."""
    tables = plan.context.tables
    observer = _Observer(plan, player)
    first, last = observer.steps
    classes = tuple(observer.rank_class(rank) for rank in player.ranks)
    counts = plan.folding.ranks.count
    lengths = np.array([c.window_ps[1] - c.window_ps[0] for c in classes])
    num_steps = last - first
    step_ps = float((lengths * counts).sum() / counts.sum()) / num_steps
    return Record(
        names=tuple(tables.names),
        kinds=tuple(tables.kinds),
        groups=_group_names(plan),
        group_members=_group_members(plan, player),
        classes=classes,
        spans_of=observer.spans,
        causes_of=observer.causes,
        links=_links(plan, player, transfers),
        memory=observer.memory(),
        flows=observer.flows(),
        step_time_ps=round(step_ps),
        num_steps=num_steps,
        num_tasks=sum(observer.num_tasks(rank) for rank in player.ranks),
        num_events=player.clock.num_events,
        simulate_wall_s=wall_s,
        details={
            "transfers": [t.name for t in transfers],
            "groups_across_stages": _across_stages(plan),
            "device_memory_bytes": plan.scenario.cluster.system.device.memory_bytes,
        },
    )


class _Observer:
    """Expands the compact logs of ranks."""

    def __init__(self, plan: Plan, player: Player) -> None:
        self._plan = plan
        self._player = player
        self.steps = (0, len(plan.programs[0].cuts) - 1)
        self._expanded: dict[int, Spans] = {}

    def _cut_time(self, rank: Rank, cut: int) -> int:
        count = rank.score.program.cuts[cut]
        return _end_of_kernel(rank, count - 1)

    def rank_class(self, rank: Rank) -> RankClass:
        """Describe the class that `rank` represents."""
        plan, number = self._plan, rank.index
        representative = int(plan.folding.ranks.first[number])
        first, last = self.steps
        return RankClass(
            representative=representative,
            count=int(plan.folding.ranks.count[number]),
            stage=int(plan.program_of[representative]),
            coordinate=plan.context.mesh.describe(representative),
            window_ps=(self._cut_time(rank, first), self._cut_time(rank, last)),
        )

    def num_tasks(self, rank: Rank) -> int:
        """Tasks of the measured steps."""
        cuts = rank.score.program.cut_tasks
        first, last = self.steps
        return cuts[last] - cuts[first]

    def _kept(self, rank: Rank) -> NDArray[np.int64]:
        cuts = rank.score.program.cut_tasks
        first, last = self.steps
        return np.arange(cuts[first], cuts[last])

    def spans(self, number: int) -> Spans:
        """Spans of one rank class in the measured steps; few classes are expanded only once."""
        if len(self._player.ranks) > _KEPT_CLASSES:
            return self._expand(number)
        if number not in self._expanded:
            self._expanded[number] = self._expand(number)
        return self._expanded[number]

    def _expand(self, number: int) -> Spans:
        rank = self._player.ranks[number]
        program = rank.score.program
        total = len(program)
        ready, start = np.zeros(total, np.int64), np.zeros(total, np.int64)
        end, alone = np.zeros(total, np.int64), np.zeros(total, np.int64)
        tracks = rank.score.tracks
        kernels = tracks[COMPUTE].tasks
        start[kernels], end[kernels] = kernel_times(rank)
        ready[kernels] = start[kernels]
        alone[kernels] = np.diff(np.array(rank.timing.sums(0)))
        for lane in range(1, len(LANES)):
            log = np.array(rank.logs[lane], dtype=np.int64).reshape(-1, 3)
            tasks = tracks[lane].tasks
            ready[tasks], start[tasks], end[tasks] = log.T
        comms = np.flatnonzero(program.comm >= 0)
        times = [port[1].alone_ps if port else 0 for port in rank.ports]
        alone[comms] = np.array(times, dtype=np.int64)[program.comm[comms]]
        size, group = self._sizes(rank)
        kept = self._kept(rank)
        return Spans(
            lane=program.lane[kept],
            name=program.name[kept],
            kind=program.kind[kept],
            phase=program.phase[kept],
            micro_batch=program.micro_batch[kept],
            layer=program.layer[kept],
            group=group[program.comm[kept]].astype(np.int32),
            size_bytes=size[program.comm[kept]],
            issue_ps=issue_times(rank)[kept],
            ready_ps=ready[kept],
            start_ps=start[kept],
            end_ps=end[kept],
            alone_ps=alone[kept],
        )

    def causes(self, number: int) -> Causes:
        """What the spans of one rank class waited for."""
        rank = self._player.ranks[number]
        program = rank.score.program
        kept = self._kept(rank)
        offset, total = int(kept[0]), len(program)
        before = np.full(total, -1, dtype=np.int64)
        for track in rank.tracks:
            before[track.tasks[1:]] = track.tasks[:-1]
        waits = program.waits
        first = np.searchsorted(waits[:, 0], np.append(kept, kept[-1] + 1))
        released, releaser = _host_releases(rank)
        return Causes(
            before=np.maximum(before[kept] - offset, -1),
            first=first - first[0],
            waited=np.maximum(_tasks_at(rank, waits[first[0] : first[-1]]) - offset, -1),
            released_ps=released[kept],
            releaser=np.maximum(releaser[kept] - offset, -1),
        )

    def _sizes(self, rank: Rank) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Bytes and group number of each collective; the last entry stands for none."""
        ports = rank.ports
        size = np.array([*(p[1].size_bytes if p else 0 for p in ports), 0], dtype=np.float64)
        group = np.array([*(p[0].number if p else -1 for p in ports), -1], dtype=np.int64)
        return size, group

    def memory(self) -> tuple[Memory, ...]:
        """The ledger of every class, with the times at which the first of its program got there."""
        plan = self._plan
        names = list(plan.context.tables.names)
        made: dict[int, Memory] = {}
        result = []
        for rank in self._player.ranks:
            number = int(plan.program_of[plan.folding.ranks.first[rank.index]])
            if number not in made:
                program, entry = plan.programs[number], plan.ledgers[number]
                peak = min(entry.peak_task, len(program) - 1)
                peak_name = names[int(program.name[peak])]
                made[number] = timed(entry, _task_starts(rank), peak_name)
            result.append(made[number])
        return tuple(result)

    def flows(self) -> tuple[Flow, ...]:
        """Messages of the measured steps as pairs of spans, sender first."""
        ranks = self._player.ranks
        kept = [self._kept(rank) for rank in ranks]
        flows = []
        for a, a_lane, a_at, b, b_lane, b_at in self._player.messages:
            if LANES[a_lane].startswith("pp_recv"):
                a, a_lane, a_at, b, b_lane, b_at = b, b_lane, b_at, a, a_lane, a_at
            source = int(ranks[a].tracks[a_lane].tasks[a_at]) - int(kept[a][0])
            target = int(ranks[b].tracks[b_lane].tasks[b_at]) - int(kept[b][0])
            if 0 <= source < len(kept[a]) and 0 <= target < len(kept[b]):
                flows.append(Flow(a, source, b, target))
        return tuple(flows)


def kernel_times(rank: Rank) -> Times:
    """Start and end of every kernel of a rank, from the pieces in which they ran.

    A piece (time, kernel, left, load) says that `kernel` runs from `time` for `left` more (-1: it
    starts afresh) and that those after it follow at once under the same load, until the next piece.
    """
    pieces = np.array(rank.pieces, dtype=np.int64).reshape(-1, 4)
    number = rank.tracks[COMPUTE].first[-1] if rank.tracks[COMPUTE].number else 0
    start, end = np.zeros(number, np.int64), np.zeros(number, np.int64)
    time, kernel, left, load = pieces.T
    sums = np.array([rank.timing.sums(n) for n in range(len(rank.timing.loads))], dtype=np.int64)
    begun = sums[load, kernel]
    whole = sums[load, kernel + 1] - begun
    fresh = left < 0
    first_end = time + np.where(fresh, whole, left)
    start[kernel[fresh]] = time[fresh]
    following = np.append(kernel[1:], number)
    # A piece covers its own kernel and those after it up to the next piece's kernel, whose end
    # (and, if it starts afresh, start) the next piece overwrites.
    count = np.maximum(following - kernel, 0)
    piece = np.repeat(np.arange(len(pieces)), count)
    step = np.arange(len(piece)) - np.repeat(np.cumsum(count) - count, count) + 1
    k = kernel[piece] + step
    inside = k < number
    piece, k = piece[inside], k[inside]
    base = first_end[piece] - sums[load[piece], kernel[piece] + 1]
    later = base + sums[load[piece], k]
    again = ~fresh[1:] if len(pieces) > 1 else np.zeros(0, bool)
    continued = np.zeros(number, dtype=bool)
    continued[kernel[1:][again]] = True
    # The next piece's own kernel gets its start from here only if it was already running then.
    own = (k == following[piece]) & ~continued[k]
    start[k[~own]] = later[~own]
    end[k] = base + sums[load[piece], k + 1]
    end[kernel] = first_end
    return start, end


def _end_of_kernel(rank: Rank, kernel: int) -> int:
    """End of one kernel: that of the last piece that begins at or before it."""
    pieces = np.array(rank.pieces, dtype=np.int64).reshape(-1, 4)
    time, first, left, load = pieces[np.searchsorted(pieces[:, 1], kernel, side="right") - 1]
    sums = rank.timing.sums(int(load))
    begun = sums[first + 1] - sums[first] if left < 0 else left
    return int(time) + int(begun) + sums[kernel + 1] - sums[first + 1]


def issue_times(rank: Rank) -> NDArray[np.int64]:
    """When the host issued every task: its own pace, held back where it waited."""
    issue = np.array(rank.score.issue_ps, dtype=np.int64)
    task, shift = np.array([0, 0, *rank.host_log], dtype=np.int64).reshape(-1, 2).T
    return issue + shift[np.searchsorted(task, np.arange(len(issue)), side="right") - 1]


def _tasks_at(rank: Rank, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Task whose end reaches the mark of each row (task, lane, count)."""
    result = np.empty(len(rows), dtype=np.int64)
    for lane, track in enumerate(rank.tracks):
        here = rows[:, 1] == lane
        result[here] = track.tasks[rows[here, 2] - 1]
    return result


def _host_releases(rank: Rank) -> Times:
    """When the host last had to wait before it issued each task, and for the end of which task."""
    total = len(rank.score.program)
    released, releaser = np.zeros(total, np.int64), np.full(total, -1, dtype=np.int64)
    log = np.array(rank.host_log, dtype=np.int64).reshape(-1, 2)
    if not len(log):
        return released, releaser
    issue = np.array([0, *rank.score.issue_ps], dtype=np.int64)
    held = np.append(True, np.diff(log[:, 1]) > 0) & (log[:, 1] > 0)
    task, shift = log[held].T
    if not len(task):
        return released, releaser
    rows = rank.score.program.host_waits
    # Of the marks that a task's issue waited for, the last one in the log released the host.
    last = np.searchsorted(rows[:, 0], task, side="right") - 1
    source = _tasks_at(rank, rows[last])
    at = np.searchsorted(task, np.arange(total), side="right") - 1
    known = at >= 0
    released[known] = (shift + issue[task])[at[known]]
    releaser[known] = source[at[known]]
    return released, releaser


def _across_stages(plan: Plan) -> list[int]:
    """Group colours with members on several pipeline stages, messages apart."""
    groups, wiring = plan.folding.groups, plan.wiring
    found = []
    for number, first in enumerate(groups.first.tolist()):
        family = wiring.family_of(first)
        members = wiring.members[family][first - wiring.first[family]]
        if len(np.unique(plan.program_of[members])) > 1 and not family.startswith("send"):
            found.append(number)
    return found


def _task_starts(rank: Rank) -> NDArray[np.int64]:
    starts = np.zeros(len(rank.score.program), dtype=np.int64)
    starts[rank.tracks[COMPUTE].tasks] = kernel_times(rank)[0]
    for lane in range(1, len(LANES)):
        log = np.array(rank.logs[lane], dtype=np.int64).reshape(-1, 3)
        starts[rank.tracks[lane].tasks] = log[:, 0]
    return starts


def _group_names(plan: Plan) -> tuple[str, ...]:
    """Name of each group colour: family and how many of them there are."""
    groups, wiring = plan.folding.groups, plan.wiring
    names = []
    for first, count in zip(groups.first.tolist(), groups.count.tolist(), strict=True):
        family = wiring.family_of(first)
        size = wiring.members[family].shape[1]
        names.append(f"{family} of {size} (x{count})")
    return tuple(names)


def _group_members(plan: Plan, player: Player) -> tuple[tuple[int, ...], ...]:
    """Rank classes that meet in each group colour."""
    members: list[dict[int, None]] = [{} for _ in range(plan.folding.groups.number)]
    for rank in player.ranks:
        for port in rank.ports:
            if port is not None:
                members[port[0].number][rank.index] = None
    return tuple(tuple(found) for found in members)


def _links(plan: Plan, player: Player, transfers: list[Transfer]) -> tuple[LinkClass, ...]:
    """Rate over time on one link of each class that was loaded."""
    if not player.moved:
        return ()
    moved = np.array(player.moved, dtype=np.int64).reshape(-1, 4)
    topology, links = plan.wiring.topology, plan.folding.links
    by_link: dict[int, list[tuple[int, float]]] = {}
    for transfer in transfers:
        for link, use in transfer.uses:
            capacity = float(topology.capacity_bytes_per_s[links.first[link]])
            by_link.setdefault(link, []).append(
                (transfer.number, use * capacity / transfer.rate_bytes_per_s)
            )
    result = []
    for link, loads in sorted(by_link.items()):
        per_byte = np.zeros(len(transfers))
        for number, load in loads:
            per_byte[number] = load
        rows = moved[per_byte[moved[:, 0]] > 0]
        if len(rows):
            result.append(_link_class(plan, link, rows, per_byte))
    return tuple(result)


def _link_class(
    plan: Plan, link: int, rows: NDArray[np.int64], per_byte: NDArray[np.float64]
) -> LinkClass:
    topology, links = plan.wiring.topology, plan.folding.links
    first = int(links.first[link])
    rate = rows[:, 3] / 1000 * per_byte[rows[:, 0]]
    times, at = np.unique(np.concatenate([rows[:, 1], rows[:, 2]]), return_inverse=True)
    change = np.zeros(len(times))
    np.add.at(change, at[: len(rows)], rate)
    np.add.at(change, at[len(rows) :], -rate)
    level = np.cumsum(change)
    level[np.abs(level) < 1e-6 * max(rate.max(), 1.0)] = 0.0
    return LinkClass(
        name=topology.name(first),
        kind=LINK_KINDS[int(topology.kind[first])],
        count=int(links.count[link]),
        capacity_bytes_per_s=float(topology.capacity_bytes_per_s[first]),
        time_ps=times,
        rate_bytes_per_s=level,
    )
