"""Steady phases in which a forward and a backward pass are joined."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from desim.plan.schedules.passes import Pass


def join_passes(order: Sequence[Pass]) -> list[Pass]:
    """Return a stage's order with one more forward pass first and the others joined.

    In 1F1B's steady phase a backward pass may need the result of the forward pass before it. With
    one more forward pass in the warm-up it does not, and the stage plays it together with the next
    forward pass; the last backward pass is left alone. A micro-batch more (of a chunk) is held.
    Megatron-LM's core/pipeline_parallel/schedules.py under `--overlap-moe-expert-parallel-comm`.
    """
    warmup = next((at for at, item in enumerate(order) if item.kind != "forward"), len(order))
    ahead = [item for item in order[warmup:] if item.kind == "forward"]
    back = [item for item in order if item.kind != "forward"]
    steady = zip(ahead, back, strict=False)
    pairs = [item for f, b in steady for item in (f, b._replace(kind="joined"))]
    return [*order[:warmup], *pairs, *back[len(ahead) :]]
