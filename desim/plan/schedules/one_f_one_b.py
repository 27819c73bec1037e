"""1F1B: after a warm-up each stage alternates one forward and one backward pass."""

from __future__ import annotations

from desim.plan.schedules.passes import Pass


def one_f_one_b(stage: int, stages: int, micro_batches: int, chunks: int) -> list[Pass]:
    """After a warm-up one forward and one backward pass in turn: the order of one stage.

    Narayanan et al. 2021, arXiv:2104.04473, figure 4 top. Stage s warms up with min(p-1-s, m)
    forward passes. The bubble is (p-1)/(m+p-1) of the step; activations of at most p-s micro-
    batches are held.
    """
    del chunks
    warmup = min(stages - 1 - stage, micro_batches)
    order = [Pass("forward", i) for i in range(warmup)]
    for i in range(micro_batches - warmup):
        order += [Pass("forward", warmup + i), Pass("backward", i)]
    order += [Pass("backward", i) for i in range(micro_batches - warmup, micro_batches)]
    return order
