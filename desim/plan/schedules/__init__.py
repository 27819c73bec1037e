"""Pipeline schedules: the order of micro-batch passes on each stage.

A schedule is one function in one file and one line in `SCHEDULES`, or, where it depends on how long
passes take, in `AUTOMATIC`; what is special about it is said by the sets below, whose families
`desim/spec/schedules.py` lists.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from desim.plan.schedules.breadth_first import breadth_first
from desim.plan.schedules.dualpipe import dualpipe, dualpipe_v
from desim.plan.schedules.gpipe import gpipe
from desim.plan.schedules.interleaved import interleaved
from desim.plan.schedules.one_f_one_b import one_f_one_b
from desim.plan.schedules.zero_bubble import zb_h1, zb_h2
from desim.spec.schedules import DUALPIPE, INTERLEAVED, TWO_CHUNKS, ZERO_BUBBLE

if TYPE_CHECKING:
    from collections.abc import Callable

    from desim.plan.schedules.passes import Pass
    from desim.spec.policy import Policies

SCHEDULES: dict[str, Callable[[int, int, int, int], list[Pass]]] = {
    "gpipe": gpipe,
    "1f1b": one_f_one_b,
    "interleaved": interleaved,
    "breadth_first": breadth_first,
    "zb_h1": zb_h1,
    "zb_h2": zb_h2,
    "dualpipe": dualpipe,
    "dualpipe_v": dualpipe_v,
}
#: Schedules that are searched for -> memory limit, over what p micro-batches hold; None: the
#: scenario's `policies.schedule_memory`.
AUTOMATIC: dict[str, float | None] = {"zb_1p": 1, "zb_2p": 2, "zb_v": 1, "zb_auto": None}
#: Schedules that place weight gradients apart from the rest of the backward pass.
SPLIT = frozenset((*ZERO_BUBBLE, *DUALPIPE))
#: Schedules in which a stage holds several chunks of the model.
MANY_CHUNKS = frozenset((*INTERLEAVED, *TWO_CHUNKS, "dualpipe"))
#: Schedules whose second chunk runs from the last stage back to the first.
FOLDED_BACK = frozenset((*TWO_CHUNKS, "dualpipe"))
#: Schedules whose second chunk is a part that another stage's first chunk is too.
MIRRORED = frozenset(("dualpipe",))


@dataclass(frozen=True, slots=True)
class Layout:
    """What a schedule makes of its stages.

    `split`: weight gradients are passes of their own; `chunks`: a stage may hold several;
    `folded_back`: every second of them runs from the last stage to the first; `mirrored`: they are
    two pipelines of the whole model, one each way; `repeats`: micro-batch 0 is the first of every
    chunk and the last one the last, so that the steady state may be left out.
    """

    split: bool
    chunks: bool
    folded_back: bool
    mirrored: bool
    repeats: bool


def layout_of(policies: Policies) -> Layout:
    """Return the layout of a scenario's schedule."""
    name, custom = policies.schedule, policies.custom
    if name == "custom" and custom is not None:
        back = custom.placement == "v" and custom.chunks > 1
        return Layout(custom.split, custom.chunks > 1, back, mirrored=False, repeats=False)
    mirrored = name in MIRRORED
    return Layout(
        name in SPLIT, name in MANY_CHUNKS, name in FOLDED_BACK, mirrored, repeats=not mirrored
    )
