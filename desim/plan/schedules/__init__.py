"""Pipeline schedules: the order of micro-batch passes on each stage.

A schedule is one function in one file and one line in `SCHEDULES`, or, where it depends on how long
passes take, in `AUTOMATIC`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from desim.plan.schedules.gpipe import gpipe
from desim.plan.schedules.interleaved import interleaved
from desim.plan.schedules.one_f_one_b import one_f_one_b
from desim.plan.schedules.zero_bubble import zb_h1, zb_h2

if TYPE_CHECKING:
    from collections.abc import Callable

    from desim.plan.schedules.passes import Pass

SCHEDULES: dict[str, Callable[[int, int, int, int], list[Pass]]] = {
    "gpipe": gpipe,
    "1f1b": one_f_one_b,
    "interleaved": interleaved,
    "zb_h1": zb_h1,
    "zb_h2": zb_h2,
}
#: Schedules that are searched for -> memory limit, over what p micro-batches hold.
AUTOMATIC = {"zb_1p": 1, "zb_2p": 2, "zb_v": 1}
#: Schedules that place weight gradients apart from the rest of the backward pass.
SPLIT = frozenset(("zb_h1", "zb_h2", *AUTOMATIC))
#: Schedules in which a stage holds several chunks of the model.
MANY_CHUNKS = frozenset(("interleaved", "zb_v"))
#: Schedules whose second chunk runs from the last stage back to the first.
FOLDED_BACK = frozenset(("zb_v",))
