"""GPipe: all forward passes, then all backward passes."""

from __future__ import annotations

from desim.plan.schedules.passes import Pass


def gpipe(stage: int, stages: int, micro_batches: int, chunks: int) -> list[Pass]:
    """All forward passes, then all backward passes: the order of one stage.

    Huang et al. 2019, arXiv:1811.06965, figure 2c. The bubble is (p-1)/(m+p-1) of the step;
    activations of all m micro-batches are held.
    """
    del stage, stages, chunks
    forward = [Pass("forward", i) for i in range(micro_batches)]
    backward = [Pass("backward", i) for i in range(micro_batches)]
    return forward + backward
