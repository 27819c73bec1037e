"""From a plan to the record of its run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from desim.engine.deadlock import explain_deadlock
from desim.engine.environment import Clock
from desim.engine.inline import inline, solo_ps
from desim.engine.macro import find_stretches
from desim.engine.observe import observe, step_time_ps
from desim.engine.play import Player
from desim.engine.rank import Port, Rank
from desim.engine.rendezvous import Group
from desim.engine.steady import SteadyPlayer
from desim.engine.timing import ALONE, KernelTimes, Timing
from desim.engine.tracks import make_score
from desim.engine.transfers import TransferTable
from desim.errors import DeadlockError
from desim.kernels.time import KernelTime
from desim.plan.repeat import is_periodic
from desim.plan.tables import COMPUTE
from desim.record import GROUP_OF_LANE, LANES, PS_PER_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from desim.engine.tracks import Score
    from desim.engine.transfers import Transfer
    from desim.plan.build import Plan
    from desim.plan.program import Program
    from desim.record import Record


def simulate(plan: Plan, watch: Callable[[Player], None] | None = None) -> Record:
    """Play `plan` and return its record.

    `watch` is called with the player before it starts.
    Raises DeadlockError when the programs cannot finish; the message says who waits for whom.
    """
    started = time.perf_counter()
    table = TransferTable(plan)
    player = _play(plan, table, watch=watch)
    return observe(plan, player, table.transfers, time.perf_counter() - started)


def simulate_briefly(plan: Plan) -> Record:
    """Play `plan` and return its record without links and messages, at less cost.

    Collectives that a rank class has for itself are played as kernels (`inline.py`), which changes
    `num_events` and no time. Raises DeadlockError as `simulate` does.
    """
    started = time.perf_counter()
    player = _play(plan, TransferTable(plan), inlined=True)
    return observe(plan, player, None, time.perf_counter() - started)


def measure_step_ps(plan: Plan) -> int:
    """Play `plan` and return the step time that its record would hold, without making the record.

    Raises DeadlockError as `simulate` does.
    """
    return step_time_ps(plan, _play(plan, TransferTable(plan), inlined=True))


def measure_folded(plan: Plan) -> int | None:
    """Play a plan that leaves periods out and return the step time with them, in ps.

    Where those left repeat, it is that of the whole plan to the picosecond; else, where the
    scenario allows it, at their pace (`left_out.py`); else None: the whole plan has to be played.
    """
    if not all(program.repeats and is_periodic(program) for program in plan.programs):
        return None
    clock = Clock()
    ranks = make_ranks(plan, TransferTable(plan), clock, inlined=True)
    player = SteadyPlayer(clock, ranks, at_pace=plan.scenario.run.fold_time == "pace")
    player.run()
    if not player.folded or not all(rank.finished for rank in ranks):
        return None
    return step_time_ps(plan, player)


def _play(
    plan: Plan,
    table: TransferTable,
    *,
    inlined: bool = False,
    watch: Callable[[Player], None] | None = None,
) -> Player:
    """Play all ranks to their end, with macro-tasks where kernels take as long each time."""
    clock = Clock()
    ranks = make_ranks(plan, table, clock, inlined=inlined)
    if not plan.disturbed.jitter:
        for rank in ranks:
            rank.stretches = find_stretches(rank)
    player = Player(clock, ranks)
    if watch is not None:
        watch(player)
    player.run()
    if not all(rank.finished for rank in ranks):
        raise DeadlockError(explain_deadlock(plan, ranks))
    return player


def make_ranks(
    plan: Plan, table: TransferTable, clock: Clock, *, inlined: bool = False
) -> list[Rank]:
    """Make the ranks to be played; `inlined`: with collectives as kernels where `_Inlined` can."""
    uniform = not plan.disturbed.jitter and (plan.disturbed.compute == 1.0).all()
    parts = _Inlined(plan) if inlined and uniform else _Timings(plan)
    ports = _Ports(plan, table)
    yielding = _yielding_lanes(plan)
    one_queue = plan.scenario.policies.resources.max_connections == 1
    ranks = []
    for index, representative in enumerate(plan.folding.ranks.first.tolist()):
        number = int(plan.program_of[representative])
        made = ports.of(representative, plan.programs[number])
        score, timing = parts.of(representative, number, made)
        rank = Rank(clock, index, score, timing, made)
        rank.yielding, rank.one_queue = yielding, one_queue
        ranks.append(rank)
    return ranks


def _yielding_lanes(plan: Plan) -> frozenset[int]:
    """Lanes of groups that `policies.resources.high_priority` does not name; copies have none."""
    high = {"compute", "h2d", "d2h", *plan.scenario.policies.resources.high_priority}
    return frozenset(n for n, lane in enumerate(LANES) if GROUP_OF_LANE[lane] not in high)


class _Inlined:
    """Programs that play the collectives that a rank has for itself as kernels (`inline.py`).

    Made by program and by how long these collectives take.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._made: dict[tuple[int, tuple[tuple[int, int], ...]], tuple[Score, Timing]] = {}

    def of(self, _: int, number: int, ports: list[Port | None]) -> tuple[Score, Timing]:
        """Score and timing of program `number` on a rank with these ports."""
        lengths = [(comm, solo_ps(port)) for comm, port in enumerate(ports)]
        solo = tuple((comm, length) for comm, length in lengths if length >= 0)
        if (number, solo) not in self._made:
            self._made[number, solo] = self._make(number, solo)
        return self._made[number, solo]

    def _make(self, number: int, solo: tuple[tuple[int, int], ...]) -> tuple[Score, Timing]:
        plan = self._plan
        computing = len(plan.kernel_times)
        program = inline(
            plan.programs[number], {comm: computing + i for i, (comm, _) in enumerate(solo)}
        )
        times = [KernelTime(0.0, 0.0, length / PS_PER_S) for _, length in solo]
        kernels = KernelTimes((*plan.kernel_times, *times), plan.scenario.cluster.system.device.sms)
        timing = Timing(kernels, program.op[program.lane == COMPUTE], 1.0, computing=computing)
        timing.number(ALONE)
        return make_score(program), timing


class _Timings:
    """Programs with kernel times by device speed; of each rank its own where times are random."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._kernels = KernelTimes(plan.kernel_times, plan.scenario.cluster.system.device.sms)
        self._made: dict[tuple[int, float], Timing] = {}
        self._scores = [make_score(program) for program in plan.programs]
        self._ops = [program.op[program.lane == COMPUTE] for program in plan.programs]

    def of(self, rank: int, program: int, _: list[Port | None]) -> tuple[Score, Timing]:
        """Score and timing of one rank."""
        return self._scores[program], self._timing(rank, program)

    def _timing(self, rank: int, program: int) -> Timing:
        speed = float(self._plan.disturbed.compute[rank])
        spread = self._plan.disturbed.jitter
        ops = self._ops[program]
        if spread:
            random = np.random.default_rng([self._plan.scenario.run.seed, rank])
            factors = np.exp(random.normal(0.0, spread, len(ops)))
            timing = Timing(self._kernels, ops, speed, factors)
            timing.number(ALONE)
            return timing
        key = (program, speed)
        if key not in self._made:
            self._made[key] = Timing(self._kernels, ops, speed)
            self._made[key].number(ALONE)
        return self._made[key]


class _Ports:
    """Where each rank meets its groups: a group colour, its rendezvous and the transfer."""

    def __init__(self, plan: Plan, table: TransferTable) -> None:
        self._plan = plan
        self._table = table
        self._comms = list(plan.context.tables.comms)
        need = _members_by_colour(plan)
        self._groups = [Group(number, count) for number, count in enumerate(need)]
        self._transfers: dict[tuple[int, int], Transfer] = {}

    def of(self, rank: int, program: Program) -> list[Port | None]:
        """One entry per collective of the tables, None for those the rank takes no part in."""
        wiring, groups = self._plan.wiring, self._plan.folding.groups
        ports: list[Port | None] = [None] * len(self._comms)
        for number in np.flatnonzero(np.bincount(program.comm + 1)[1:]).tolist():
            slot = self._comms[number].slot
            group = int(wiring.group_of[slot, rank])
            colour = int(groups.of[group])
            key = (number, colour)
            if key not in self._transfers:
                self._transfers[key] = self._table.make(number, int(groups.first[colour]))
            ports[number] = (self._groups[colour], self._transfers[key], slot)
        return ports


def _members_by_colour(plan: Plan) -> list[int]:
    """How many representatives meet in a group of each colour, counting each slot apart."""
    folding = plan.folding
    chosen = np.zeros(len(folding.groups.of), dtype=bool)
    chosen[folding.groups.first] = True
    need = np.zeros(folding.groups.number, dtype=np.int64)
    for row in plan.wiring.group_of:
        ranks = np.flatnonzero(row >= 0)
        ranks = ranks[chosen[row[ranks]]]
        pairs = folding.groups.of[row[ranks]] * folding.ranks.number + folding.ranks.of[ranks]
        present = np.unique(pairs) // folding.ranks.number
        need += np.bincount(present, minlength=folding.groups.number)
    return [int(n) for n in need]
