"""Interleaved 1F1B: every stage holds several model chunks and alternates between them."""

from __future__ import annotations

from desim.plan.schedules.passes import Pass


def interleaved(stage: int, stages: int, micro_batches: int, chunks: int) -> list[Pass]:
    """1F1B over several model chunks per stage, a smaller bubble for more messages.

    Narayanan et al. 2021, arXiv:2104.04473, section 2.2. Micro-batches go in rounds of p: p of
    them through chunk 0, the same p through chunk 1, and so on; the micro-batch count must be a
    multiple of p. Stage s warms up with 2(p-1-s) + (v-1)p forward passes. The bubble is
    (p-1)/(vm+p-1) of the step.
    """
    total = micro_batches * chunks
    warmup = min(2 * (stages - 1 - stage) + (chunks - 1) * stages, total)

    def forward(k: int) -> Pass:
        turn, within = divmod(k, stages * chunks)
        return Pass("forward", turn * stages + within % stages, within // stages)

    def backward(k: int) -> Pass:
        turn, within = divmod(k, stages * chunks)
        return Pass("backward", turn * stages + within % stages, chunks - 1 - within // stages)

    order = [forward(k) for k in range(warmup)]
    for k in range(total - warmup):
        order += [forward(warmup + k), backward(k)]
    order += [backward(k) for k in range(total - warmup, total)]
    return order
