"""What a schedule is made of."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

from desim.spec.orders import part_of as part_of

Kind = Literal["forward", "backward", "weight", "whole", "joined"]
KINDS: tuple[Kind, ...] = get_args(Kind)


class Pass(NamedTuple):
    """One micro-batch through one model chunk of a stage.

    `backward` is the whole backward pass, or under a schedule that splits it (`SPLIT`) the part
    that the stage before waits for, the gradients of inputs; `weight` is then the rest, the
    gradients of weights, and `whole` a backward pass that is not split all the same. `joined` is
    a whole one that is played together with the forward pass before it: both begin once both
    inputs are there, and their results are sent when both are done (DualPipe's F&B, the steady
    phase of Megatron-LM's combined 1F1B).
    """

    kind: Kind
    micro_batch: int
    chunk: int = 0
