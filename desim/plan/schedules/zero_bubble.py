"""ZB-H1 and ZB-H2: 1F1B with weight gradients moved to where a stage would idle.

Qi et al. 2024, Zero Bubble Pipeline Parallelism, arXiv:2401.10241, section 2.
"""

from __future__ import annotations

from desim.plan.schedules.passes import Pass


def zb_h1(stage: int, stages: int, micro_batches: int, chunks: int) -> list[Pass]:
    """The order of 1F1B; stage s keeps s weight gradients back to fill the end with.

    Section 2.1 and figure 3 top: as many micro-batches are in flight on every stage as on the first
    one of 1F1B, p. The bubble is (p-1)(T_F + T_B - T_W) (table 2).
    """
    del chunks
    return _one_by_one(stages - stage, stage, micro_batches)


def zb_h2(stage: int, stages: int, micro_batches: int, chunks: int) -> list[Pass]:
    """More forward passes fill the start; stage s keeps 2s weight gradients back.

    Section 2.2 and figure 3 bottom: 2p - 1 micro-batches are in flight on every stage. The bubble
    is (p-1)(T_F + T_B - 2 T_W) (table 2), nothing where all three take as long as each other; the
    stages end their steps one after the other, which the optimizer must allow (section 4).
    """
    del chunks
    return _one_by_one(2 * (stages - stage) - 1, 2 * stage, micro_batches)


def _one_by_one(ahead: int, kept: int, micro_batches: int) -> list[Pass]:
    """Play `ahead` forward passes, then backward, weight and forward in turn.

    Weight gradients run `kept` micro-batches behind; those left over run at the end.
    """
    ahead = min(ahead, micro_batches)
    order = [Pass("forward", i) for i in range(ahead)]
    for i in range(micro_batches):
        order.append(Pass("backward", i))
        if i >= kept:
            order.append(Pass("weight", i - kept))
        if ahead + i < micro_batches:
            order.append(Pass("forward", ahead + i))
    first_left = max(0, micro_batches - kept)
    return order + [Pass("weight", i) for i in range(first_left, micro_batches)]
