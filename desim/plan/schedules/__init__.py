"""Pipeline schedules: the order of micro-batch passes on each stage.

A schedule is one function in one file and one line in `SCHEDULES`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from desim.plan.schedules.gpipe import gpipe
from desim.plan.schedules.interleaved import interleaved
from desim.plan.schedules.one_f_one_b import one_f_one_b

if TYPE_CHECKING:
    from collections.abc import Callable

    from desim.plan.schedules.passes import Pass

SCHEDULES: dict[str, Callable[[int, int, int, int], list[Pass]]] = {
    "gpipe": gpipe,
    "1f1b": one_f_one_b,
    "interleaved": interleaved,
}
