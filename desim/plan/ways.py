"""What the passes of one chunk are in the order of its stage: the first, the last, which add."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from desim.plan.schedules.passes import Kind, Pass


@dataclass(frozen=True, slots=True)
class Way:
    """Micro-batches of a chunk: the first forward, the first and the last of its gradients."""

    first: int
    first_added: int
    last_added: int


def way_of(order: Sequence[Pass], chunk: int) -> Way:
    """Read a chunk's way off the order of its stage."""
    held = [item for item in order if item.chunk == chunk]
    first = next(item.micro_batch for item in held if item.kind == "forward")
    split = any(item.kind == "weight" for item in held)
    added = [item.micro_batch for item in held if item.kind in adding(split=split)]
    return Way(first, added[0], added[-1])


def adding(*, split: bool) -> tuple[Kind, ...]:
    """Kinds of passes that make gradients of weights; `split`: some have passes of their own."""
    return ("weight" if split else "backward", "whole", "joined")
