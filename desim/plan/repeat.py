"""Micro-batches that repeat: where the orders of all stages do, and what is left out of a program.

In a pipeline's steady state, and where gradients are accumulated, each stage plays the same passes
again for the next micro-batches. A program can be built without most of these periods; the engine
then shows that a period of those left repeats to the picosecond, and adds what was left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from desim.plan.program import Program
    from desim.plan.schedules.passes import Pass

#: Periods are left out by multiples of one of these, so that states may repeat after any number of
#: periods that divides it.
_CYCLES = (12, 4, 2, 1)
#: Long periods (of several micro-batches) have settled after fewer of them: after 5 where 8
#: micro-batches are kept, after a third of the micro-batches where more are.
_FEWEST_KEPT = 5
#: Less than this share of a step left out is not worth the comparison of states.
_WORTH = 0.3


@dataclass(frozen=True, slots=True)
class Stretch:
    """Equal periods in the order of a stage: where they begin, passes of each, how many."""

    first: int
    passes: int
    periods: int


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a program: tasks issued before it, in all and by lane."""

    task: int
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """Equal periods in a program: where they begin, the length of each, how many."""

    first: Position
    period: Position
    periods: int

    def count(self, lane: int, period: int) -> int:
        """Tasks of `lane` issued before period number `period`."""
        return self.first.counts[lane] + period * self.period.counts[lane]

    def task(self, period: int) -> int:
        """First task of period number `period`."""
        return self.first.task + period * self.period.task

    def end(self, lane: int) -> int:
        """Tasks of `lane` issued before the end of the last period."""
        return self.count(lane, self.periods)


@dataclass(frozen=True, slots=True)
class Shortened:
    """Orders without some of their periods, and the stretches that the others make."""

    orders: list[list[Pass]]
    stretches: tuple[Stretch, ...]
    left_out: int
    """Periods left out of every stage's order."""
    micro_batches: int
    """Those that are left."""


def shorten(
    orders: Sequence[Sequence[Pass]], micro_batches: int, lengths: Sequence[int], kept: int
) -> Shortened | None:
    """Leave all but about `kept` micro-batches' periods out; None where too little repeats.

    `lengths` are the numbers of micro-batches that a period may have.
    """
    for length in lengths:
        found = [_stretch(order, micro_batches, length) for order in orders]
        if any(stretch is None for stretch in found):
            continue
        stretches = [stretch for stretch in found if stretch is not None]
        fewest = min(stretch.periods for stretch in stretches)
        left_out = _rounded(fewest - max(-(-kept // length), _FEWEST_KEPT, kept // 3))
        if left_out * length < _WORTH * micro_batches:
            continue
        gone = left_out * length
        short = [_without(o, s, left_out, gone) for o, s in zip(orders, stretches, strict=True)]
        left = tuple(Stretch(s.first, s.passes, s.periods - left_out) for s in stretches)
        return Shortened(short, left, left_out, micro_batches - gone)
    return None


def _rounded(periods: int) -> int:
    """Multiple of the largest cycle that loses at most a quarter of `periods`."""
    for cycle in _CYCLES:
        if 4 * (periods % cycle) <= periods:
            return periods - periods % cycle
    return 0


def _stretch(order: Sequence[Pass], micro_batches: int, length: int) -> Stretch | None:
    """Equal periods of `length` micro-batches around the middle of an order.

    The first and the last micro-batch have passes of their own and are no part of them. What
    follows a pass can change the messages after it: the last period found is not counted.
    """
    passes, rest = divmod(len(order) * length, micro_batches)
    if rest or 2 * passes > len(order):
        return None

    def repeats(at: int) -> bool:
        now, then = order[at], order[at + passes]
        same = then == now._replace(micro_batch=now.micro_batch + length)
        return same and now.micro_batch > 0 and then.micro_batch < micro_batches - 1

    first = end = (len(order) - passes) // 2
    while first > 0 and repeats(first - 1):
        first -= 1
    while end + passes < len(order) and repeats(end):
        end += 1
    periods = (end - first) // passes
    return Stretch(first, passes, periods) if periods > 0 else None


def _without(order: Sequence[Pass], stretch: Stretch, left_out: int, gone: int) -> list[Pass]:
    later = order[stretch.first + left_out * stretch.passes :]
    moved = [item._replace(micro_batch=item.micro_batch - gone) for item in later]
    return [*order[: stretch.first], *moved]


def repeat_of(positions: Sequence[Position], stretch: Stretch) -> Repeat | None:
    """The periods of a program whose passes begin at `positions`; None if they differ in length."""
    at = positions[stretch.first : stretch.first + stretch.periods * stretch.passes + 1]
    at = at[:: stretch.passes]
    tasks = np.diff([p.task for p in at])
    counts = np.diff([p.counts for p in at], axis=0)
    if np.ptp(tasks) or np.ptp(counts, axis=0).any():
        return None
    period = Position(int(tasks[0]), tuple(counts[0].tolist()))
    return Repeat(at[0], period, stretch.periods)


def is_periodic(program: Program) -> bool:
    """Whether every period of the program's repeats has the same tasks, waits and host waits."""
    return all(_same_tasks(program, r) and _same_waits(program, r) for r in program.repeats)


def _same_tasks(program: Program, repeat: Repeat) -> bool:
    first, last, length = repeat.task(0), repeat.task(repeat.periods), repeat.period.task
    columns = (program.lane, program.op, program.comm, program.host_ps)
    return all((c[first : last - length] == c[first + length : last]).all() for c in columns)


def _same_waits(program: Program, repeat: Repeat) -> bool:
    first, last, length = repeat.task(0), repeat.task(repeat.periods), repeat.period.task
    counts = np.array(repeat.period.counts, dtype=np.int64)
    for rows in (program.waits, program.host_waits):
        early = rows[(rows[:, 0] >= first) & (rows[:, 0] < last - length)]
        late = rows[(rows[:, 0] >= first + length) & (rows[:, 0] < last)]
        if len(early) != len(late):
            return False
        moved = early.copy()
        moved[:, 0] += length
        moved[:, 2] += counts[early[:, 1]]
        if (moved != late).any():
            return False
    return True
