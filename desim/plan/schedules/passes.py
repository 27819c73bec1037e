"""What a schedule is made of."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

Kind = Literal["forward", "backward", "weight", "whole", "joined"]
KINDS: tuple[Kind, ...] = get_args(Kind)


class Pass(NamedTuple):
    """One micro-batch through one model chunk of a stage.

    `backward` is the whole backward pass, or under a schedule that splits it (`SPLIT`) the part
    that the stage before waits for, the gradients of inputs; `weight` is then the rest, the
    gradients of weights, and `whole` a backward pass that is not split all the same. `joined` is
    a whole one that is played together with the forward pass before it: both begin once both
    inputs are there, and their results are sent when both are done (DualPipe's F&B).
    """

    kind: Kind
    micro_batch: int
    chunk: int = 0


def part_of(stage: int, stages: int, chunk: int, *, folded_back: bool) -> int:
    """Return which part of the model chunk `chunk` of a stage is, from 0.

    Chunks go round and round (Megatron-LM's interleaving), or, `folded_back`, every other time
    from the last stage to the first (the V of Qi et al. 2024, arXiv:2401.10241, section 6).
    """
    place = stages - 1 - stage if folded_back and chunk % 2 else stage
    return chunk * stages + place
