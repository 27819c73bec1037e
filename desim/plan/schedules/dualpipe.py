"""DualPipe and DualPipeV: micro-batches from both ends of the model at once.

DeepSeek-AI 2024, DeepSeek-V3 Technical Report, arXiv:2412.19437, section 3.2.1, figure 5, table 2;
DualPipeV is its cut in half: the second way back runs on the same stages.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from desim.plan.schedules.passes import Pass

if TYPE_CHECKING:
    from desim.plan.schedules.passes import Kind


def dualpipe(stage: int, stages: int, micro_batches: int, chunks: int) -> list[Pass]:
    """Two pipelines in opposite directions over the same stages, which hold two parts each.

    Table 2, for an even number of stages p and m >= 2p micro-batches: the bubble is
    (p/2-1)(F&B + B - 3W), with B the whole backward pass; the parameters are held twice, and the
    activations of p + 1 micro-batches. Half of the micro-batches go each way: from the first
    stage to the last in chunk 0 the first half, from the last to the first in chunk 1 the others.

    F&B is a forward and a backward pass of the two directions together: a stage begins them once
    both inputs are there and sends both results when both are done. With experts over several ranks
    their kernels take turns, so that each computes while the rows of the other travel
    (`plan.joined`, figure 4); else, and where `policies.experts.passes` wants them `apart`, the
    device plays the one after the other and F&B is F + B.
    """
    del chunks
    half = stages // 2
    here = min(stage, stages - 1 - stage)
    way = 0 if stage < half else 1
    count = micro_batches // 2
    return _both_ways(half - 1 - here, here + 1, count, way, (0, count))


def dualpipe_v(stage: int, stages: int, micro_batches: int, chunks: int) -> list[Pass]:
    """DualPipe cut in half: two chunks per stage in a V, parameters held once.

    On p stages, which hold one of 2p parts of the model in each of two chunks, and m >= 2p micro-
    batches: a bubble of (p-1)(F&B + B - 3W) of a chunk's times, and activations of 2p + 1 chunks.
    What F&B is: see `dualpipe`.
    """
    del chunks
    return _both_ways(stages - 1 - stage, stage + 1, micro_batches, 0, (0, 0))


def _both_ways(below: int, above: int, count: int, way: int, first: tuple[int, int]) -> list[Pass]:
    """The order of a stage with `below` others up to the turn, and `above` from the end with it.

    `count` micro-batches go each way, numbered from `first[chunk]`; the stage is nearer to the
    beginning of the way of chunk `way`.
    """
    near, far = way, 1 - way
    ways = _Ways(first)
    for _ in range(2 * below):
        ways.forward(near)
    for _ in range(above):
        ways.forward(near)
        ways.forward(far)
    for _ in range(below):
        ways.backward(far, "backward")
        ways.weight()
        ways.forward(far)
    for _ in range(count - 2 * below - above):
        ways.forward(near)
        ways.backward(far, "joined")
        ways.forward(far)
        ways.backward(near, "joined")
    for _ in range(below):
        ways.backward(far, "whole")
        ways.forward(far)
        ways.backward(near, "joined")
    for k in range(2 * above):
        ways.backward(far if k % 2 == 0 else near, "whole" if k < above else "backward")
    for _ in range(below):
        ways.weight()
        ways.backward(near, "backward")
    while ways.left:
        ways.weight()
    return ways.order


class _Ways:
    """The order so far, the next micro-batch of each chunk and direction, weights still to do."""

    def __init__(self, first: tuple[int, int]) -> None:
        self.order: list[Pass] = []
        self.left: deque[Pass] = deque()
        self._forward = list(first)
        self._backward = list(first)

    def forward(self, chunk: int) -> None:
        self.order.append(Pass("forward", self._forward[chunk], chunk))
        self._forward[chunk] += 1

    def backward(self, chunk: int, kind: Kind) -> None:
        micro_batch = self._backward[chunk]
        self.order.append(Pass(kind, micro_batch, chunk))
        self._backward[chunk] += 1
        if kind == "backward":
            self.left.append(Pass("weight", micro_batch, chunk))

    def weight(self) -> None:
        self.order.append(self.left.popleft())
