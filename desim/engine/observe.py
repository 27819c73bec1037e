"""From what the player logged to the record: spans, links, memory, messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from desim.engine.expand import (
    end_of_kernel,
    host_releases,
    issue_times,
    kernel_times,
    task_starts,
    tasks_at,
)
from desim.engine.utilisation import link_classes
from desim.plan.ledger import timed
from desim.plan.reserve import outside_bytes, reserved_bytes
from desim.plan.tables import COMPUTE
from desim.record import LANES, Causes, Flow, Memory, RankClass, Record, Spans

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from desim.engine.play import Player
    from desim.engine.rank import Rank
    from desim.engine.transfers import Transfer
    from desim.plan.build import Plan
    from desim.plan.program import Program

_KEPT_CLASSES = 64


def observe(plan: Plan, player: Player, transfers: list[Transfer] | None, wall_s: float) -> Record:
    """Build the record of a finished run; without `transfers` it has no links and no messages."""
    tables = plan.context.tables
    observer = _Observer(plan, player)
    first, last = observer.steps
    classes = tuple(observer.rank_class(rank) for rank in player.ranks)
    whole = (min(c.window_ps[0] for c in classes), max(c.window_ps[1] for c in classes))
    return Record(
        names=tuple(tables.names),
        kinds=tuple(tables.kinds),
        groups=_group_names(plan),
        group_members=_group_members(plan, player),
        classes=classes,
        spans_of=observer.spans,
        causes_of=observer.causes,
        links=() if transfers is None else link_classes(plan, player, transfers, whole),
        memory=observer.memory(),
        flows=() if transfers is None else observer.flows(),
        step_time_ps=step_time_ps(plan, player),
        num_steps=last - first,
        num_tasks=sum(observer.num_tasks(rank) for rank in player.ranks),
        num_events=player.clock.num_events,
        simulate_wall_s=wall_s,
        details={
            "groups_across_stages": _across_stages(plan),
            "device_memory_bytes": plan.scenario.cluster.system.device.memory_bytes,
        },
    )


def step_time_ps(plan: Plan, player: Player) -> int:
    """Mean length of the measured steps over all ranks, in ps."""
    counts = plan.folding.ranks.count
    windows = np.array([_window_ps(rank) for rank in player.ranks], dtype=np.int64)
    lengths = windows[:, 1] - windows[:, 0]
    num_steps = len(plan.programs[0].cuts) - 1
    return round(float((lengths * counts).sum() / counts.sum()) / num_steps)


def _window_ps(rank: Rank) -> tuple[int, int]:
    """Start and end of the measured steps on one rank."""
    cuts = rank.score.program.cuts
    return end_of_kernel(rank, cuts[0] - 1), end_of_kernel(rank, cuts[-1] - 1)


class _Observer:
    """Expands the compact logs of ranks.

    Where a rank has played collectives as kernels (`inline.py`), its tracks have them on the
    compute lane; they are told apart by the plan's own program.
    """

    def __init__(self, plan: Plan, player: Player) -> None:
        self._plan = plan
        self._player = player
        self.steps = (0, len(plan.programs[0].cuts) - 1)
        self._expanded: dict[int, Spans] = {}

    def rank_class(self, rank: Rank) -> RankClass:
        """Describe the class that `rank` represents."""
        plan, number = self._plan, rank.index
        representative = int(plan.folding.ranks.first[number])
        return RankClass(
            representative=representative,
            count=int(plan.folding.ranks.count[number]),
            stage=int(plan.stage_of[representative]),
            coordinate=plan.context.mesh.describe(representative),
            window_ps=_window_ps(rank),
        )

    def _program(self, rank: Rank) -> Program:
        """What a rank does, by the plan."""
        plan = self._plan
        return plan.programs[int(plan.program_of[plan.folding.ranks.first[rank.index]])]

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
        program = self._program(rank)
        total = len(program)
        ready, start = np.zeros(total, np.int64), np.zeros(total, np.int64)
        end, alone = np.zeros(total, np.int64), np.zeros(total, np.int64)
        tracks = rank.score.tracks
        kernels = tracks[COMPUTE].tasks
        start[kernels], end[kernels] = kernel_times(rank)
        ready[kernels] = start[kernels]
        alone[kernels] = rank.device.timing.durations(0)
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
        program = self._program(rank)
        kept = self._kept(rank)
        offset, total = int(kept[0]), len(program)
        before = np.full(total, -1, dtype=np.int64)
        lanes = [np.flatnonzero(program.lane == lane) for lane in range(len(LANES))]
        for tasks in lanes:
            before[tasks[1:]] = tasks[:-1]
        waits = program.waits
        first = np.searchsorted(waits[:, 0], np.append(kept, kept[-1] + 1))
        released, releaser = host_releases(rank)
        return Causes(
            before=np.maximum(before[kept] - offset, -1),
            first=first - first[0],
            waited=np.maximum(tasks_at(lanes, waits[first[0] : first[-1]]) - offset, -1),
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
                reserved = reserved_bytes(entry)
                outside = outside_bytes(plan.context, program)
                made[number] = timed(entry, task_starts(rank), peak_name, reserved, outside)
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


def _across_stages(plan: Plan) -> list[int]:
    """Group colours with members on several pipeline stages, messages apart."""
    groups, wiring, stage_of = plan.folding.groups, plan.wiring, plan.stage_of
    found = []
    for number, first in enumerate(groups.first.tolist()):
        family = wiring.family_of(first)
        members = wiring.members[family][first - wiring.first[family]]
        if len(np.unique(stage_of[members])) > 1 and not family.startswith("send"):
            found.append(number)
    return found


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
