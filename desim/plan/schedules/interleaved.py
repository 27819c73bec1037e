"""Interleaved 1F1B: every stage holds several model chunks and alternates between them."""

from __future__ import annotations

from desim.plan.schedules.passes import Pass


def interleaved(stage: int, stages: int, micro_batches: int, chunks: int) -> list[Pass]:
    """1F1B over several model chunks per stage, a smaller bubble for more messages.

    Narayanan et al. 2021, arXiv:2104.04473, section 2.2. Micro-batches go in rounds of p: p of
    them through chunk 0, the same p through chunk 1, and so on. Stage s warms up with
    2(p-1-s) + (v-1)p forward passes. The bubble is (p-1)/(vm+p-1) of the step.

    Where m is no multiple of p, the m/p rounds, rounded down, are as equal as they can be, the
    first ones one micro-batch longer: none is shorter than p, so that no chunk waits for the one
    before it. PyTorch's ScheduleInterleaved1F1B does the same and refuses unequal rounds; Megatron-
    LM's `--microbatch-group-size-per-virtual-pipeline-stage` makes all but the last as long as it
    says. A round of r > p holds (v-1)(r-p) more chunk activations.
    """
    rounds = _rounds(micro_batches, stages)
    total = micro_batches * chunks
    warmup = min(2 * (stages - 1 - stage) + (chunks - 1) * rounds[0][1], total)
    forward = [
        Pass("forward", first + i, chunk)
        for first, size in rounds
        for chunk in range(chunks)
        for i in range(size)
    ]
    backward = [Pass("backward", i, chunks - 1 - chunk) for _, i, chunk in forward]
    order = forward[:warmup]
    for item, done in zip(forward[warmup:], backward, strict=False):
        order += [item, done]
    return order + backward[total - warmup :]


def _rounds(micro_batches: int, stages: int) -> list[tuple[int, int]]:
    """Return the first micro-batch of every round and how many it has."""
    count = max(1, micro_batches // stages)
    size, longer = divmod(micro_batches, count)
    return [(k * size + min(k, longer), size + (k < longer)) for k in range(count)]
