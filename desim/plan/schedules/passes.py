"""What a schedule is made of."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Pass(NamedTuple):
    """One micro-batch through one model chunk of a stage, forward or backward."""

    kind: Literal["forward", "backward"]
    micro_batch: int
    chunk: int = 0
