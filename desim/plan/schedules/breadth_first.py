"""Breadth-first: a chunk of a stage plays all micro-batches before the next chunk begins."""

from __future__ import annotations

from desim.plan.schedules.passes import Pass


def breadth_first(stage: int, stages: int, micro_batches: int, chunks: int) -> list[Pass]:
    """All micro-batches through one chunk, then the next: the bubble of the interleaved schedule.

    Lamy-Poirier 2023, Breadth-First Pipeline Parallelism, arXiv:2211.05953, section 4.1, figure 4:
    forward passes of all micro-batches in chunk 0, then in chunk 1, and so on; backward passes the
    other way round. With m >= p micro-batches the bubble is (p-1)(F+B)/v, as of the interleaved
    schedule (equation 2); activations of all m micro-batches are held.
    """
    del stage, stages
    forward = [Pass("forward", i, c) for c in range(chunks) for i in range(micro_batches)]
    backward = [
        Pass("backward", i, c) for c in reversed(range(chunks)) for i in range(micro_batches)
    ]
    return forward + backward
