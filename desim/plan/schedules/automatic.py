"""Zero-bubble schedules that are found: weight gradients placed where a stage would idle.

Qi et al. 2024, arXiv:2401.10241, section 3.1 (one chunk per stage) and section 6 (two chunks in a
V). Forward and backward passes follow a pattern; weight gradients fill the gaps between them and
give back memory when the limit is hit; those left over run at the end. Some patterns and settings
are tried and the schedule with the smallest bubble is taken.
"""

from __future__ import annotations

from functools import partial
from itertools import product
from math import ceil
from typing import TYPE_CHECKING

from desim.plan.schedules.costs import Costs
from desim.plan.schedules.listing import Greedy
from desim.plan.schedules.passes import Pass

if TYPE_CHECKING:
    from collections.abc import Callable

_SLACK = 1e-9
#: A gap is filled if it is at least this share of a weight gradient's time; all are tried.
_GAPS = (0.0, 0.5, 1.0)
#: Times of the three passes for which patterns of two chunks are made, and what is kept for W.
_SHAPES = ((1.0, 1.0, 1.0, 0.0), (2.0, 2.0, 1.0, 0.0), (3.0, 3.0, 2.0, 0.3))
#: Micro-batches that a stage takes on before its first backward pass, and those that it holds later
#: on, over the number of stages from it to the last; the memory limit is tried as well.
_AHEAD = (1, 2, 2.125)
_STEADY = (1, 2)
#: Micro-batches per stage that the search plays beyond the memory limit. A long V has not settled
#: by then: so many of the best play so many times as many, and the best of these all.
_ROUNDS = 1
_FINALISTS = 5
_LONGER = 4

_Orders = list[list[Pass]]
#: Number of a pattern, and the gap that a weight gradient fills.
_Choice = tuple[int, float]


def automatic(costs: Costs, micro_batches: int, limit: float, *, joined: bool) -> _Orders:
    """Return the orders of all stages with the smallest bubble that the search finds.

    A stage never holds more than `limit` x p micro-batches (weights still to be done count by what
    is kept for them), unless a backward pass keeps more than it gives back. With `joined` all
    stages end the step together, so that it lasts from the first pass of any to the last of all;
    else it lasts as long as the busiest stage takes.
    """
    few = min(micro_batches, ceil((_ROUNDS + limit) * costs.stages))
    makers = patterns(costs, limit)
    tried = [(number, gap) for number in range(len(makers)) for gap in _GAPS]
    for count in dict.fromkeys((few, min(micro_batches, few * _LONGER))):
        made = {number: makers[number](count) for number, _ in tried}
        lengths_s = []
        for number, gap in tried:
            greedy = Greedy(costs, count, limit, gap, made[number])
            greedy.run()
            played = greedy.played
            lengths_s.append(played.whole_s if joined else played.longest_s)
        tried = _shortest(tried, lengths_s)
    number, gap = tried[0]
    return Greedy(costs, micro_batches, limit, gap, makers[number](micro_batches)).run()


def _shortest(tried: list[_Choice], lengths_s: list[float]) -> list[_Choice]:
    """The choices that took least, of those that took as long the first."""
    least_s = min(lengths_s) * (1 + _SLACK)
    order = sorted(range(len(tried)), key=lambda at: (max(lengths_s[at], least_s), at))
    return [tried[at] for at in order[:_FINALISTS]]


def patterns(costs: Costs, limit: float) -> list[Callable[[int], _Orders]]:
    """Return makers of orders of forward and backward passes, for a number of micro-batches.

    They hold at most `limit` x p micro-batches.
    """
    if costs.chunks > 1:
        return [partial(_in_a_v, costs.uniform(*shape), limit) for shape in _SHAPES]
    ahead = dict.fromkeys((*_AHEAD, limit))
    steady = dict.fromkeys((*_STEADY, limit))
    return [
        partial(_in_a_row, costs.stages, limit, *chosen)
        for chosen in product(ahead, steady)
        if chosen[1] <= min(chosen[0], limit) or chosen == (1, 1)
    ]


def _in_a_v(plain: Costs, limit: float, micro_batches: int) -> _Orders:
    """Orders that the list scheduler makes for equal stages, without their weight gradients."""
    found = Greedy(plain, micro_batches, limit, 0.0).run()
    return [[item for item in order if item.kind != "weight"] for order in found]


def _in_a_row(p: int, limit: float, ahead: float, steady: float, micro_batches: int) -> _Orders:
    """Orders of one chunk per stage: `ahead` and `steady` are over the stages still to come."""
    most = int(limit * p + _SLACK)
    return [
        _one_by_one(
            max(1, min(most, round(ahead * (p - s)) - (ahead == 2))),
            round(steady * (p - s)),
            micro_batches,
        )
        for s in range(p)
    ]


def _one_by_one(ahead: int, steady: int, micro_batches: int) -> list[Pass]:
    """Play `ahead` forward passes, then backward and forward passes in turn.

    Forward passes pause until no more than `steady` micro-batches are in flight.
    """
    forward = min(ahead, micro_batches)
    order = [Pass("forward", i) for i in range(forward)]
    for i in range(micro_batches):
        order.append(Pass("backward", i))
        if forward < micro_batches and forward - i - 1 < max(steady, 1):
            order.append(Pass("forward", forward))
            forward += 1
    return order
