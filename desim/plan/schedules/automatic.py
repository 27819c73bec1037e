"""Zero-bubble schedules that are found: weight gradients placed where a stage would idle.

Qi et al. 2024, arXiv:2401.10241, section 3.1 (one chunk per stage) and section 6 (two chunks in a
V). Forward and backward passes follow a pattern; weight gradients fill the gaps between them and
give back memory when the limit is hit; those left over run at the end. Some patterns and settings
are tried and the schedule with the smallest bubble is taken.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

from desim.plan.schedules.costs import Costs
from desim.plan.schedules.listing import Greedy
from desim.plan.schedules.passes import Pass

if TYPE_CHECKING:
    from collections.abc import Iterator

_SLACK = 1e-9
#: A gap is filled if it is at least this share of a weight gradient's time; all are tried.
_GAPS = (0.0, 0.5, 1.0)
#: Times of the three passes for which patterns of two chunks are made, and what is kept for W.
_SHAPES = ((1.0, 1.0, 1.0, 0.0), (2.0, 2.0, 1.0, 0.0), (3.0, 3.0, 2.0, 0.3))
#: Micro-batches per stage that the search plays beyond the memory limit; then all are played.
_ROUNDS = 1

_Orders = list[list[Pass]]


def automatic(costs: Costs, micro_batches: int, limit: int, *, joined: bool) -> _Orders:
    """Return the orders of all stages with the smallest bubble that the search finds.

    A stage never holds more than `limit` x p micro-batches (weights still to be done count by what
    is kept for them), unless a backward pass keeps more than it gives back. With `joined` all
    stages end the step together, so that it lasts from the first pass of any to the last of all;
    else it lasts as long as the busiest stage takes.
    """
    few = min(micro_batches, (_ROUNDS + limit) * costs.stages)
    best_s, chosen = float("inf"), (0, 0.0)
    for number, pattern in enumerate(_patterns(costs, few, limit)):
        for gap in _GAPS:
            greedy = Greedy(costs, few, limit, gap, pattern)
            greedy.run()
            played = greedy.played
            length_s = played.whole_s if joined else played.longest_s
            if length_s < best_s * (1 - _SLACK):
                best_s, chosen = length_s, (number, gap)
    pattern = list(_patterns(costs, micro_batches, limit))[chosen[0]]
    return Greedy(costs, micro_batches, limit, chosen[1], pattern).run()


def _patterns(costs: Costs, micro_batches: int, limit: int) -> Iterator[_Orders]:
    """Yield orders of forward and backward passes that hold at most `limit` x p micro-batches."""
    if costs.chunks > 1:
        for forward_s, backward_s, weight_s, kept in _SHAPES:
            plain = costs.uniform(forward_s, backward_s, weight_s, kept)
            found = Greedy(plain, micro_batches, limit, 0.0).run()
            yield [[item for item in order if item.kind != "weight"] for order in found]
        return
    p = costs.stages
    for ahead, steady in product((1, 2, 2.125), (1, 2)):
        if steady > min(ahead, limit):
            continue
        yield [
            _one_by_one(
                min(limit * p, round(ahead * (p - s)) - (ahead == 2)),
                steady * (p - s),
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
